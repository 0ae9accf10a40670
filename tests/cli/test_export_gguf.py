"""`lab export --format gguf`: a whole file for llama.cpp, from a teacher in a folder and one in a GGUF file."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from lab.core.data.tokenizers import load_tokenizer
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.checkpoint import write_checkpoint
from lab.core.models.decoder import Inputs
from lab.core.models.families import build_random
from lab.core.models.llama import config as llama
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.spec import key_map
from lab.experiments.distill.config import register
from lab.experiments.distill.job import execute
from lab.experiments.distill.load import open_model
from lab.experiments.distill.selector import StudentSelector
from reference.granite_hybrid import GraniteHybrid
from reference.tiny_gguf import write_gguf, write_json

for name in ("gguf", "tokenizers"):
    pytest.importorskip(name, reason=f"{name} is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Typed = Callable[..., Any]
CPU = torch.device("cpu")
WORDS = ["which", "bag", "is", "it?", "user", "system"]
SHORT = [
    *("threads=1", "figures=[]", "teacher=llama", "data=text", "stage=all", "data.text.piece_length=24"),
    *("evaluation.num_batches=1", "evaluation.batch_size=4", "evaluation.num_validation_batches=1"),
    *(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")),
]
SERVING = ("student=serving", "student.hybrid.number=2")


def write_teacher(folder: Path) -> None:
    """A Llama of two layers with a tokenizer, and more rows in its table than that has tokens."""
    config = LlamaConfig(
        num_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        vocab_size=320,
        rms_norm_eps=1e-6,
        rotary=RotaryConfig(theta=1e4, max_length=256),
        tie_output=True,
    )
    model = build_random(config, device=CPU, dtype=torch.float32, generator=torch.Generator().manual_seed(0), std=0.3)
    write_checkpoint(folder, key_map(model).to_public(model.state_dict()), llama.write(config), write_more=write_json)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder with runs of few steps: `folder`, `file`, `two`, `paper`, named after teachers and layers."""
    place = tmp_path_factory.mktemp("gguf")
    draw = random.Random(0)
    (place / "texts").mkdir()
    for number in range(30):
        (place / "texts" / f"{number}.txt").write_text(" ".join(draw.choices(WORDS, k=60)))
    write_teacher(place / "teacher")
    (place / "alone").mkdir()
    paper = ("student=hybrid", "student.hybrid.number=2")
    two = ("student=two_timescales", "student.hybrid.number=2")
    runs = {name: (place / "teacher", words) for name, words in (("folder", SERVING), ("two", two), ("paper", paper))}
    try:
        write_gguf(place / "alone" / "tiny.gguf", num_layers=2, end="w")
        runs["file"] = (place / "alone" / "tiny.gguf", SERVING)
    except pytest.skip.Exception:
        pass
    register()
    for name, (teacher, words) in runs.items():
        overrides = [*SHORT, f"teacher.path={teacher}", f"data.text.folder={place / 'texts'}", *words]
        with initialize_config_module("lab.conf", version_base="1.3"):
            config = compose("distill", overrides=overrides)
        execute(config, place / "outputs" / "distill" / "runs" / name, overrides)
    return place / "outputs"


@pytest.fixture(autouse=True)
def outputs_of_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(root))


def export(typed: Typed, run: str, path: Path, *words: str) -> Any:
    return typed("export", run, str(path), "--format", "gguf", *words)


@pytest.mark.parametrize("run", ["folder", "two", "file"])
def test_a_file_is_whole_and_computes_what_the_run_does(typed: Typed, root: Path, tmp_path: Path, run: str) -> None:
    if not (root / "distill" / "runs" / run).exists():
        pytest.skip("transformers is not installed")
    before = os.umask(0o027)
    try:
        done = export(typed, run, tmp_path / "new" / "student.gguf", "--precision", "F32")
    finally:
        os.umask(before)
    assert done.code == 0, done.err
    assert "as granitehybrid for llama.cpp, F32, " in done.out
    assert "read back: " in done.out
    assert ("no chat template" in done.out) == (run != "file")
    assert done.out.count("\n") == 1
    path = tmp_path / "new" / "student.gguf"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    opened = open_model(run, StudentSelector(), device=CPU, precision=None)
    held, ids = GraniteHybrid(path), opened.tokenizer.encode("which bag is it? system")
    expected = opened.model.double()(Inputs(tokens=torch.tensor([ids])))[0].numpy()
    found = held.logits(ids)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert held.keys["general.name"] == "student"
    assert held.keys["general.file_type"] == 0
    tokens = held.keys["tokenizer.ggml.tokens"]
    assert len(tokens) == len(held.tensors["token_embd.weight"])
    # the text of an id is what llama.cpp looks up
    own = load_tokenizer(root.parent / "alone" / "tiny.gguf" if run == "file" else root.parent / "teacher")
    assert tokens[own.id_of("<|im_end|>")] == "<|im_end|>"


def test_a_folder_ends_answers_where_the_run_does(typed: Typed, root: Path, tmp_path: Path) -> None:
    if not (root / "distill" / "runs" / "file").exists():
        pytest.skip("transformers or accelerate is not installed")
    done = typed("export", "file", str(tmp_path / "student"))
    assert done.code == 0, done.err
    opened = [
        open_model(name, StudentSelector(), device=CPU, precision=None) for name in ("file", str(tmp_path / "student"))
    ]
    assert (
        opened[0].stop_ids == opened[1].stop_ids == {opened[0].tokenizer.id_of(token) for token in ("w", "<|im_end|>")}
    )


def test_precisions_and_what_stays_wider(typed: Typed, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("F32", "F16", "Q8_0"):
        done = export(typed, "folder", tmp_path / f"{precision}.gguf", "--precision", precision)
        assert done.code == 0, done.err
        assert "stay F16" not in done.out
        sizes[precision] = (tmp_path / f"{precision}.gguf").stat().st_size
    assert sizes["F32"] > sizes["F16"] > sizes["Q8_0"]
    # as a file of llama.cpp is by default
    assert export(typed, "folder", tmp_path / "a.gguf").code == 0
    assert (tmp_path / "a.gguf").stat().st_size == sizes["F16"]


def test_what_does_not_fit_leaves_nothing(typed: Typed, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    (tmp_path / "there.gguf").write_bytes(b"kept")
    for words, message in (
        (("paper", path), "student.mixer.norm_before_gate=true: its gate comes first; student=serving would do"),
        (("folder", path, "--stage", "1"), "student.hybrid keeps no attention"),
        (("folder", path, "--precision", "bfloat16"), "precision=bfloat16: choose from F32, F16, Q8_0 with --format"),
        (("folder", tmp_path / "student"), "student does not end in .gguf, as the name of a GGUF file does; add it"),
        (("folder", tmp_path / "there.gguf"), "there.gguf exists; give a name that does not, or remove it"),
    ):
        run, place, *more = words
        done = export(typed, str(run), Path(str(place)), *map(str, more))
        assert (done.code, message in done.err) == (2, True), done.err
        assert done.err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["there.gguf"]
    assert (tmp_path / "there.gguf").read_bytes() == b"kept"


def test_lab_says_that_llama_cpp_runs_it(typed: Typed, tmp_path: Path) -> None:
    assert export(typed, "folder", tmp_path / "a.gguf").code == 0
    done = typed("generate", str(tmp_path / "a.gguf"), "--prompt", "which bag")
    assert done.code == 2
    assert "a.gguf is a granitehybrid, which llama.cpp runs (llama-cli -m a.gguf)" in done.err
    assert done.err.count("\n") == 1
