"""Probes as they are run, in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from lab.experiments.probe.config import register
from lab.experiments.probe.job import check, execute
from lab.experiments.probe.recorded import load
from lab.experiments.probe.results import Results

SMALL = ("num_train=[30]", "widths=[5,20,60]", "ridge=[0,0.01,1]", "draws=3", "threads=1")


@pytest.fixture
def probe(tmp_path: Path) -> Callable[..., Path]:
    """Run what is typed behind `lab probe`, small; the directory of the run."""

    def run(*words: str, name: str = "run") -> Path:
        register()
        overrides = [word for word in SMALL if word.partition("=")[0] not in {w.partition("=")[0] for w in words}]
        with initialize_config_module("lab.conf", version_base="1.3"):
            config = compose("probe", overrides=[*overrides, *words])
        check(config)
        execute(config, tmp_path / name, list(words))
        return tmp_path / name

    return run


@pytest.fixture
def results_of() -> Callable[[Path], Results]:
    """What a run recorded."""
    return lambda directory: Results.of(load(directory))
