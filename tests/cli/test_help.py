"""What `--help` prints: complete, in 80 columns, at once."""

import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import typer
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from typer.testing import CliRunner

from lab.cli.main import app
from lab.core.mixers.spec import mixers
from lab.core.models.config import DecoderConfig, VisionConfig
from lab.core.models.families import TeacherBase
from lab.experiments.bench.run import BENCHMARKS
from lab.experiments.distill.config import DistillConfig, EvaluationConfig, Recipe
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.data_sources import data_sources
from lab.experiments.distill.student import StudentConfig
from lab.experiments.eval.config import EvalConfig
from lab.experiments.hmm_risk.config import HmmRiskConfig, RepresentationConfig, TaskConfig, register
from lab.experiments.probe.config import ProbeConfig

CONF = Path(__file__).parents[2] / "conf"
NAMES = [
    "bench",
    "compare",
    "data",
    "distill",
    "doctor",
    "eval",
    "export",
    "generate",
    "hmm-risk",
    "plot",
    "probe",
    "report",
    "runs",
    "show",
    "slurm",
    "track",
    "version",
]
COMMANDS = [(), *((name,) for name in NAMES), ("hmm-risk", "sweep"), ("slurm", "script"), ("data", "check")]
STUDIES = {
    ("distill",): DistillConfig,
    ("eval",): EvalConfig,
    ("probe",): ProbeConfig,
    ("hmm-risk", "sweep"): HmmRiskConfig,
}
HEAVY = {"numpy", "scipy", "torch", "hydra", "omegaconf", "matplotlib", "pyarrow"}


def help_of(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0
    return done.stdout


def test_help_loads_nothing_heavy_and_not_much_at_all() -> None:
    program = """
import json, sys
from lab.cli.main import app
for words in json.loads(sys.argv[1]):
    app([*words, "--help"], standalone_mode=False)
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    words = [sys.executable, "-c", program, json.dumps(COMMANDS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage:") == len(COMMANDS)
    of_first, *_, of_all = map(json.loads, done.stderr.splitlines())
    assert HEAVY & set(of_all) == set()
    # 0.15 s; a library more, and `lab --help` is felt
    assert len(of_first) < 300
    # the help of a study reads its YAML files
    assert len(of_all) < 340


def test_the_commands_are_those_that_are_documented() -> None:
    listed = re.findall(r"^  ([a-z-]+)  ", help_of().partition("Experiments:")[2], flags=re.MULTILINE)
    assert sorted(listed) == NAMES


def test_every_benchmark_is_named() -> None:
    named = help_of("bench").partition("What to time: ")[2].partition(".")[0]
    assert sorted(set(re.findall(r"[a-z]+(?:-[a-z]+)*", named)) - {"or"}) == sorted(BENCHMARKS)


def test_commands_stand_in_sections() -> None:
    sections = re.split(r"^(\w[\w ]*):$", help_of().partition("Options:")[2], flags=re.MULTILINE)[1:]
    found = {
        title: re.findall(r"^  ([a-z-]+)  ", text, flags=re.MULTILINE)
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert found["Experiments"] == ["distill", "eval", "probe", "hmm-risk"]
    assert sorted(found["Models"]) == ["data", "export", "generate"]
    assert {"runs", "show"} <= set(found["Results"])
    assert {"doctor", "bench", "slurm"} <= set(found["This machine"])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_is_not_cut(words: tuple[str, ...]) -> None:
    text = help_of(*words)
    assert max(map(len, text.splitlines())) <= 80
    cut = [line for line in text.splitlines() if line.endswith(("...", "…")) and not line.startswith("Usage:")]
    assert cut == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_that_is_a_sentence(words: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]
    if words:
        assert re.match(r"[A-Z][^.]* [^.]*\.", command.help or "")
    for parameter in command.params:
        text = getattr(parameter, "help", None)
        assert text, parameter.name
        assert re.fullmatch(r"[A-Z].* .*\.", text), text
        assert not text.startswith(("Of ", "Where ", "How "))


@pytest.mark.parametrize("words", STUDIES, ids=" ".join)
def test_the_help_of_a_study_teaches_groups_keys_and_examples(words: tuple[str, ...]) -> None:
    text = help_of(*words)
    known = set(re.findall(r"[\w-]+", text))
    assert {field.name for field in fields(STUDIES[words])} - known == set()
    groups: dict[tuple[str, ...], tuple[str, ...]] = {
        ("distill",): ("teacher", "student", "student/mixer", "data", "recipe"),
        ("hmm-risk", "sweep"): ("hmm", "representation", "task"),
    }
    for group in groups.get(words, ()):
        for option in (CONF / group).glob("*.yaml"):
            assert option.stem in known
    if words == ("distill",):
        for option in (CONF / "experiment" / "distill").glob("*.yaml"):
            assert option.stem in known
    assert text.partition("Examples:")[2].count(f"lab {' '.join(words)}") >= 3


def keys(schema: type, prefix: str) -> set[str]:
    """The keys of a dataclass, as they are typed."""
    found: set[str] = set()
    for field in fields(schema):
        kind = field.type if is_dataclass(field.type) else None
        if kind is None and isinstance(field.default_factory, type) and is_dataclass(field.default_factory):
            kind = field.default_factory
        found |= keys(kind, f"{prefix}{field.name}.") if kind else {f"{prefix}{field.name}"}  # type: ignore[arg-type]
    return found


def test_the_help_lists_every_key_of_every_group() -> None:
    register()
    of_risk = keys(RepresentationConfig, "representation.") | keys(TaskConfig, "task.")
    for group in ("hmm", "head"):
        for schema in ConfigStore.instance().repo[group].values():
            of_risk |= keys(OmegaConf.get_type(schema.node), f"{group}.")
    assert {"hmm.path", "hmm.num_states", "hmm.start", "head.max_iterations"} < of_risk
    of_distill = keys(Recipe, "stage_N.") | keys(StudentConfig, "student.") | keys(PromptConfig, "prompt.")
    of_distill |= keys(EvaluationConfig, "evaluation.") | keys(TeacherBase, "teacher.")
    of_distill |= keys(DecoderConfig, "teacher.FAMILY.") | keys(VisionConfig, "teacher.hovle.vision.")
    for mixer in mixers().values():
        of_distill |= keys(mixer.options, "student.mixer.")
    of_distill |= {"data.on_bad_sample"}
    for kind, source in data_sources().items():
        of_distill |= keys(source.options, f"data.{kind}.")
    for words, expected in ((("hmm-risk", "sweep"), of_risk), (("distill",), of_distill)):
        assert len(expected) > 15
        assert expected - set(re.findall(r"^ +([\w.]+)", help_of(*words), flags=re.MULTILINE)) == set()


def test_the_help_says_what_options_of_a_group_set() -> None:
    text = " ".join(help_of("hmm-risk", "sweep").split())
    assert "hmm.spectral_radius Largest modulus of A's eigenvalues, below 1. [0.8; orthogonal_modes: 0.95;" in text
    assert "hmm=dirichlet, permutations:" in text
    assert "student.hybrid.number" in help_of("distill")
    text = " ".join(help_of("distill").split())
    assert "data.text.folder A file, or a folder whose *.txt, *.md, *.rst, *.jsonl and *.parquet files are read" in text
    assert "stage_N.loss_mask Positions that enter the loss: all, non_padding, answers. [all]" in text
