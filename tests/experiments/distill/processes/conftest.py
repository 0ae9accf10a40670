"""Commands in several processes: torchrun starts those that are interrupted or refused, the others are forked."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from several_processes import Launcher

import warm_commands


@pytest.fixture(scope="module")
def launcher(
    tmp_path_factory: pytest.TempPathFactory, lab_command: tuple[str, ...], teacher_folder: Path
) -> Iterator[Launcher]:
    root = tmp_path_factory.mktemp("processes")
    # what models that are cut into pieces load takes longer than a run here
    with warm_commands.command_server("lab.core.parallel.sharded") as server:
        forked_lab = warm_commands.forked_by(server, tmp_path_factory.mktemp("streams"))
        yield Launcher(root, lab_command, teacher_folder, forked_lab)


@pytest.fixture(scope="module")
def alone(launcher: Launcher) -> Callable[..., Path]:
    """Runs of one process, each made once."""
    done: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in done:
            done[overrides] = launcher.run(f"alone_{len(done)}", "stage=all", *overrides)
        return done[overrides]

    return run
