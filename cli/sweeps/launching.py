"""Between Hydra's sweeper and its launcher: finished points are skipped, and jobs need not be waited for."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lab.cli.resume import quoted
from lab.cli.sweeps.points import Command
from lab.core.errors import ConfigError, RunError
from lab.core.runs.console import is_quiet, print_directory
from lab.core.streams import say

# what is to be launched: the overrides of each job, and the number of the first
Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Any]]


def refuse_begun(command: Command) -> None:
    """Refuse a sweep with a point that is running.

    Raises:
        RunError: naming it.
    """
    for point in command.points if command.is_sweep else ():
        if point.number not in command.finished and point.state() == "running":
            raise RunError(f"{point.directory} is running; wait for it, or end it, and type the command again")


class _Layered:
    """A launcher for a sweeper, which needs nothing else of one; what is pickled is the one behind it."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Launch jobs; see `hydra.plugins.launcher.Launcher`."""
        return self._launch(job_overrides, initial_job_idx)


@contextlib.contextmanager
def launcher_behind(*layers: Callable[[Any, Launch], Launch]) -> Iterator[None]:
    """Meanwhile the launcher that Hydra makes is called through these; the first is called by the sweeper.

    Args:
        layers: each takes the launcher and what it would call, and returns what is called instead.
    """
    if not layers:
        yield
        return
    from hydra.core.plugins import Plugins

    makes: Any = Plugins
    made = makes.instantiate_launcher

    def instantiate(plugins: Any, **named: Any) -> Any:
        launcher = made(plugins, **named)
        launch: Launch = launcher.launch
        for layer in reversed(layers):
            launch = layer(launcher, launch)
        return _Layered(launch)

    # Hydra has no place for this: sweepers make their launcher themselves
    makes.instantiate_launcher = instantiate
    try:
        yield
    finally:
        makes.instantiate_launcher = made


def skipping(command: Command) -> Callable[[Any, Launch], Launch]:
    """A layer that launches all but the finished points, and says which these are."""
    finished = command.finished
    is_said = False

    def layer(launcher: Any, launch: Launch) -> Launch:
        def without(job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
            nonlocal is_said
            numbered = list(enumerate(job_overrides, start=initial_job_idx))
            todo = [(number, words) for number, words in numbered if number not in finished]
            results = {number: returned() for number, _ in numbered if number in finished}
            if is_quiet():
                for number in results:
                    print_directory(command.points[number].directory)
            elif not is_said:
                # once: a sweeper with max_batch_size launches several times
                say(f"{len(finished)} of {len(command.points)} points are finished and skipped: {_ranges(finished)}")
                is_said = True
            if type(launcher).__name__ == "BasicLauncher":
                # one after the other in any case: each keeps its number
                for number, words in todo:
                    results[number] = launch([words], number)[0]
            elif todo:
                # one submission for all of them; what is counted from 0 then is not what names a folder
                names = {number: quoted(command.name_of(command.points[number])) for number, _ in todo}
                placed = [[*words, f"hydra.sweep.subdir={names[number]}"] for number, words in todo]
                for (number, _), result in zip(todo, launch(placed, initial_job_idx), strict=True):
                    results[number] = result
            return [results[number] for number, _ in numbered]

        return without

    return layer


def returned(value: object = None) -> Any:
    """What a sweeper is given for a job that did not run."""
    from hydra.core.utils import JobReturn, JobStatus

    result = JobReturn(status=JobStatus.COMPLETED)
    result.return_value = value
    return result


def refuse_flags(command: Command, *, is_left: bool) -> None:
    """Refuse --no-wait where there is nothing to leave.

    Raises:
        ConfigError: naming the fix.
    """
    if is_left and not command.is_elsewhere:
        raise ConfigError("--no-wait leaves jobs to Slurm: add -m and hydra/launcher=slurm_cpu, or leave it out")
    if is_left and command.is_search:
        raise ConfigError("--no-wait with hydra/sweeper=optuna: it needs the results of its points; leave it out")


def _ranges(numbers: frozenset[int]) -> str:
    """Numbers as users write pages: 0-3, 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
