"""Students of every family of text models go through three short stages, out into a folder and in again."""

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module

from drawn import one_in
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
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.sources import choose_node, find_recorded

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

# a family has one way of replacing its attention in each run of the tests
WAYS = list(product(mixers(), ["linear", "hybrid"]))
CASES = [(name, *way) for name in TEXT_FAMILIES for way in one_in(len(WAYS), WAYS, of=name)]

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


@pytest.mark.parametrize(("name", "mixer", "kind"), CASES)
def test_three_short_stages(
    name: str,
    mixer: str,
    kind: str,
    write_teacher: Callable[[FamilySpec], Path],
    documents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    spec = TEXT_FAMILIES[name]
    overrides = [
        *("stage=all", f"teacher={name}", f"teacher.path={write_teacher(spec)}", f"student/mixer={mixer}"),
        *("data=text", f"data.text.folder={documents}"),
        *(("student.hybrid.placement=listed", "student.hybrid.layers=[1]") if kind == "hybrid" else ()),
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
    assert exported.mixers == [mixer, "mha" if kind == "hybrid" else mixer, mixer]
    run = find_recorded("run")
    student = load_finished(run, choose_node(run, StudentSelector()), device=CPU)
    tokens = Inputs(tokens=torch.arange(24).view(1, 24))
    assert exported.load(device=CPU, dtype=torch.float32)(tokens).equal(student(tokens))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options", "home"),
    [
        ("llama", ("student=serving", "student.hybrid.number=2"), "granitemoehybrid"),
        ("qwen2", ("student.mixer.norm_eps=null",), "falcon_h1"),
        (
            "qwen3",
            (
                *("student/mixer=gated_deltanet", "student.mixer.norm_eps=null", "student.mixer.conv_bias=false"),
                *("student.mixer.qk_norm=false", "student.hybrid.placement=listed", "student.hybrid.layers=[1]"),
            ),
            "qwen3_next",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_student_of_three_short_stages_becomes_a_stock_model(
    name: str,
    options: tuple[str, ...],
    home: str,
    write_teacher: Callable[[FamilySpec], Path],
    documents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    teacher = write_teacher(families()[name])
    data = ("data=text", f"data.text.folder={documents}", "data.text.piece_length=32", "data.text.held_out_share=0.3")
    overrides = ["stage=all", f"teacher={name}", f"teacher.path={teacher}", *data, *options]
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=[*SMALL, *overrides])
    execute(config, tmp_path / "outputs" / "distill" / "runs" / "run", overrides)
    said = export.main("run", tmp_path / "student", StudentSelector(), layout="transformers")
    assert f"as {home}, because" in said
    assert "no chat template: the teacher has none" in said
    exported = ModelFolder(tmp_path / "student").load(device=CPU, dtype=torch.float32)
    run = find_recorded("run")
    student = load_finished(run, choose_node(run, StudentSelector()), device=CPU)
    state = exported.state_dict()
    assert [key for key, tensor in student.state_dict().items() if not state[key].equal(tensor)] == []
