"""What `--help` prints: complete, in 80 columns, at once."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lab.cli.main import app
from lab.experiments.distill.config import DistillConfig
from lab.experiments.hmm_risk.config import HmmRiskConfig

CONF = Path(__file__).parents[2] / "conf"
NAMES = [
    "bench",
    "compare",
    "distill",
    "doctor",
    "export",
    "generate",
    "hmm-risk",
    "plot",
    "runs",
    "show",
    "slurm",
    "version",
]
COMMANDS = [(), *((name,) for name in NAMES), ("hmm-risk", "sweep"), ("slurm", "script")]
STUDIES = {("distill",): DistillConfig, ("hmm-risk", "sweep"): HmmRiskConfig}
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
    modules = json.loads(done.stderr)
    assert HEAVY & set(modules) == set()
    # 0.15 s; a library more, and `lab --help` is felt
    assert len(modules) < 300


def test_the_commands_are_those_that_are_documented() -> None:
    listed = [line.split()[0] for line in help_of().partition("Commands:")[2].splitlines() if line.strip()]
    assert sorted(listed) == NAMES


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
    groups = ("teacher", "student", "student/mixer", "data", "recipe") if words == ("distill",) else ()
    for group in groups or ("hmm", "representation", "task"):
        for option in (CONF / group).glob("*.yaml"):
            assert option.stem in known
    if words == ("distill",):
        for option in (CONF / "experiment" / "distill").glob("*.yaml"):
            assert option.stem in known
    assert text.partition("Examples:")[2].count(f"lab {' '.join(words)}") >= 3
