"""Hydra's flags, alone and together: what Hydra would answer with a traceback, or leave out, is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-m seed=1,2 --cfg job", "--multirun with --cfg"),
        ("--run --info searchpath", "--run with --info"),
        ("--resolve", "add --cfg job"),
        ("--package hmm", "add --cfg job"),
        ("--shell-completion", "install=SHELL"),
        ("-sc install=csh", "bash, fish, zsh"),
        ("-sc query=bash", "a shell asks it"),
        ("--version", "`lab version`"),
        ("hydra.job_logging.root.level=FOO", "hydra.job_logging.root.level=FOO: there is no such level"),
        ("-m seed=1,2 hydra.hydra_logging.root.level=loud", "hydra.hydra_logging.root.level=loud"),
        ("-m seed=range(1,4,0)", "seed=range(1,4,0): range() arg 3 must not be zero"),
        ("-m seed=range(4,1)", "seed=range(4,1): there is no value in it"),
        ("-m seed=glob(*)", "seed=glob(*): there is no value in it"),
    ],
)
def test_flags_and_sweeps_that_say_nothing_are_refused(
    typed: Callable[..., Any], tiny: tuple[str, ...], outputs: Path, words: str, says: str
) -> None:
    done = typed("hmm-risk", "sweep", *tiny, *words.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert says in done.err
    assert not outputs.exists()


def test_a_configuration_is_printed_with_its_interpolations_resolved(
    typed: Callable[..., Any], tiny: tuple[str, ...]
) -> None:
    done = typed("hmm-risk", "sweep", *tiny, "--cfg", "job", "--resolve")
    assert (done.code, "num_train: 20" in done.out) == (0, True)
