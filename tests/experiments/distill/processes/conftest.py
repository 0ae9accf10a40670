"""Commands in several processes, which torchrun starts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from several_processes import Launcher


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory, lab_command: tuple[str, ...], teacher_folder: Path) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("processes"), lab_command, teacher_folder)


@pytest.fixture(scope="module")
def alone(launcher: Launcher) -> Callable[..., Path]:
    """Runs of one process, each made once."""
    done: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in done:
            done[overrides] = launcher.run(f"alone_{len(done)}", "stage=all", *overrides)
        return done[overrides]

    return run
