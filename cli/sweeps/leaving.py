"""`--no-wait`: the points of a sweep are submitted to Slurm, and the command ends; `lab runs` follows them."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.cli.cluster.slurm_queue import queue_states
from lab.cli.sweeps.launching import Launch, returned
from lab.cli.sweeps.points import Command, Point
from lab.core.errors import RunError
from lab.core.runs.atomic_files import write_atomically
from lab.core.runs.find import SCHEMA_VERSION, WAITING
from lab.core.runs.json_files import json_object_or_none
from lab.core.streams import say

# of a sweep: the job of each point that was submitted, by the name of its folder
JOBS = "jobs.json"


def refuse_waiting(command: Command) -> None:
    """Refuse a sweep with points that wait in Slurm's queue: they would be there twice.

    Raises:
        RunError: naming one.
    """
    jobs = job_numbers(command.folder) if command.is_sweep else {}
    names = {command.name_of(point): point for point in command.points if jobs and point.state() == WAITING}
    waiting = {name: point for name, point in names.items() if name in jobs}
    states = queue_states([jobs[name] for name in waiting]) or {}
    for name, point in waiting.items():
        job = jobs[name]
        if job in states:
            raise RunError(
                f"{point.directory} waits as job {job}; `lab runs` follows it, and `scancel {job.partition('_')[0]}` "
                "takes the sweep out of the queue"
            )


def leaving(command: Command) -> Callable[[Any, Launch], Launch]:
    """A layer that submits jobs without waiting for them."""
    left = iter([point for point in command.points if point.number not in command.finished])

    def layer(launcher: Any, launch: Launch) -> Launch:
        def submit(job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
            # a sweeper with max_batch_size comes several times
            points = list(itertools.islice(left, len(job_overrides)))
            jobs: list[Any] = []
            # before there is a job: one that has begun writes its own status
            with _marked(points), _not_waiting(jobs):
                results = launch(job_overrides, initial_job_idx)
            numbers = {command.name_of(point): str(job.job_id) for point, job in zip(points, jobs, strict=True)}
            known = {**job_numbers(command.folder), **numbers}
            write_atomically(command.folder / JOBS, json.dumps(known, indent=2) + "\n")
            array = ", ".join(sorted({job.partition("_")[0] for job in numbers.values()}))
            say(f"job {array}: {len(points)} points; `lab runs` follows them")
            return results

        return submit

    return layer


def job_numbers(folder: Path) -> dict[str, str]:
    """The job of each point of a sweep that was submitted and left; empty if none was."""
    return {name: str(job) for name, job in (json_object_or_none(folder / JOBS) or {}).items()}


def waiting_jobs(directories: Sequence[Path]) -> dict[Path, str]:
    """The jobs that runs wait for, in words: number and, where known, Slurm's word for its state."""
    waiting = [
        path for path in directories if (json_object_or_none(path / "status.json") or {}).get("status") == WAITING
    ]
    known = {folder: job_numbers(folder) for folder in {path.parent for path in waiting}}
    jobs = {path: known[path.parent].get(path.name, "") for path in waiting}
    states = queue_states([job for job in jobs.values() if job])
    return {path: _words(job, states) for path, job in jobs.items()}


def _words(job: str, states: Mapping[str, str] | None) -> str:
    again = "type the sweep's command again"
    if not job:
        return f"no job is known; {again}"
    if states is None:
        return f"job {job}"
    return f"job {job}, {states[job]}" if job in states else f"job {job} is not in the queue any more; {again}"


@contextlib.contextmanager
def _marked(points: Sequence[Point]) -> Iterator[None]:
    """Points that have not begun are recorded as waiting; not if what follows fails."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    status = {"schema_version": SCHEMA_VERSION, "started": now, "status": WAITING, "updated": now}
    marked = [point.directory for point in points if not (point.directory / "status.json").exists()]
    for directory in marked:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / "status.json", json.dumps(status, indent=2) + "\n")
    try:
        yield
    except BaseException:
        for directory in marked:
            (directory / "status.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


class _Left:
    """A job whose result nobody waits for."""

    def results(self) -> list[Any]:
        """As of a job that has ended."""
        return [returned()]


@contextlib.contextmanager
def _not_waiting(jobs: list[Any]) -> Iterator[None]:
    """Meanwhile submitit's arrays are submitted, their jobs noted, and their results not waited for."""
    from submitit import AutoExecutor

    submits: Any = AutoExecutor
    submit = submits.map_array

    def map_array(executor: Any, function: Any, *iterables: Any) -> list[_Left]:
        jobs.extend(submit(executor, function, *iterables))
        return [_Left() for _ in jobs]

    submits.map_array = map_array
    try:
        yield
    finally:
        submits.map_array = submit
