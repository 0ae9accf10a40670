"""Students of every family of text models go through three short stages, out into a folder and in again."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module

from lab.core.data.tokenizers import WordTokenizer
from lab.core.mixers.rotary import RotaryConfig
from lab.core.mixers.spec import mixers
from lab.core.models.checkpoint import write_checkpoint
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import Inputs
from lab.core.models.families import build_random
from lab.core.models.folder import Kind, ModelFolder
from lab.core.models.spec import FamilySpec, families, key_map
from lab.experiments.distill import export
from lab.experiments.distill.config import register
from lab.experiments.distill.job import execute
from lab.experiments.distill.load import load_finished
from lab.experiments.distill.sources import StudentSelector, choose_node, find_recorded

CPU = torch.device("cpu")
WORDS = [f"w{number}" for number in range(40)]
TEXT_FAMILIES = {name: spec for name, spec in families().items() if issubclass(spec.config, DecoderConfig)}
# what a family has beyond its defaults
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {"tie_output": True},
    "mistral": {"window": 5},
    "qwen2": {"window": 5, "windowed_layers": [1]},
    "qwen3": {"head_dim": 16},
    "smollm3": {"layers_without_rotary": [1]},
    "phi3": {"window": 7},
}
SMALL = [
    *("threads=1", "figures=[]", "evaluation.num_batches=1", "evaluation.batch_size=4"),
    "evaluation.num_validation_batches=1",
    *(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of random words."""
    folder = tmp_path_factory.mktemp("documents")
    draw = random.Random(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(draw.choices(WORDS, k=60)))
    return folder


@pytest.fixture
def write_teacher(tmp_path: Path) -> Callable[[FamilySpec], Path]:
    """A teacher of a family with random weights, and its words."""

    def write(spec: FamilySpec) -> Path:
        # documents are parted by line breaks
        tokenizer = WordTokenizer([*WORDS, "\n"])
        sizes: dict[str, Any] = {
            "num_layers": 3,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 8,
            "vocab_size": len(tokenizer),
            "rms_norm_eps": 1e-5,
            "rotary": RotaryConfig(theta=1e4, max_length=64),
        }
        config: Any = spec.config
        config = config(**(sizes | OPTIONS.get(spec.name, {})))
        generator = torch.Generator().manual_seed(0)
        model = build_random(config, device=CPU, dtype=torch.float32, generator=generator, std=0.25)
        folder = tmp_path / "teacher"
        write_checkpoint(folder, key_map(model).to_public(model.state_dict()), spec.config_json(config))
        tokenizer.write(folder)
        return folder

    return write


@pytest.mark.parametrize("spec", TEXT_FAMILIES.values(), ids=TEXT_FAMILIES)
@pytest.mark.parametrize("mixer", mixers())
@pytest.mark.parametrize("kept", [(), (1,)], ids=["linear", "hybrid"])
def test_three_short_stages(
    spec: FamilySpec,
    mixer: str,
    kept: tuple[int, ...],
    write_teacher: Callable[[FamilySpec], Path],
    documents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    overrides = [
        *("stage=all", f"teacher={spec.name}", f"teacher.path={write_teacher(spec)}", f"student/mixer={mixer}"),
        *("data=text", f"data.text.folder={documents}"),
        *(("student.hybrid.placement=listed", f"student.hybrid.layers={list(kept)}") if kept else ()),
        *("data.text.piece_length=32", "data.text.held_out_share=0.3"),
    ]
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=[*SMALL, *overrides])
    folder = tmp_path / "outputs" / "distill" / "runs" / "run"
    execute(config, folder, overrides)
    export.main("run", tmp_path / "student", StudentSelector())
    exported = ModelFolder(tmp_path / "student")
    assert (exported.kind, exported.family) == (Kind.student, spec)
    assert exported.mixers == [mixer, "mha" if kept else mixer, mixer]
    run = find_recorded("run")
    student = load_finished(run, choose_node(run, StudentSelector()), device=CPU)
    tokens = Inputs(tokens=torch.arange(24).view(1, 24))
    assert exported.load(device=CPU, dtype=torch.float32)(tokens).equal(student(tokens))
