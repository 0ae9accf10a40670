"""Waiting for the jobs of a sweep that submitit has submitted: they have ended when Slurm's queue says so.

submitit asks the accounting, which many clusters do not have; a job that failed without a result would be waited for
without end. The queue is there always.
"""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from lab.core.errors import RunError

_SECONDS = 10.0
# a job that is being requeued is between two states for a moment
_CONFIRMATIONS = 2
_ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "GONE")
)


class QueueWatcher:
    """What submitit asks about its jobs, answered by squeue."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """Nothing is asked yet.

        Args:
            seconds: between two questions.
        """
        self._seconds = seconds
        self._asked = -seconds
        self._states: dict[str, str] = {}
        self._times_ended: dict[str, int] = {}

    def register_job(self, job_id: str) -> None:
        """Watch a job, `7` or `7_3`."""
        self._times_ended.setdefault(job_id, 0)

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether a job has ended, however it did."""
        self._ask()
        return self._times_ended.get(job_id, 0) >= _CONFIRMATIONS

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """Slurm's word for the state of a job."""
        return self._states.get(job_id, "UNKNOWN")

    def wait_for_all(self) -> None:
        """Wait until every job has ended."""
        while not all(self.is_done(job_id) for job_id in self._times_ended):
            time.sleep(min(1.0, self._seconds))

    def _ask(self) -> None:
        waiting = [job_id for job_id, times in self._times_ended.items() if times < _CONFIRMATIONS]
        if not waiting or time.monotonic() < self._asked + self._seconds:
            return
        self._asked = time.monotonic()
        states = _squeue({job_id.partition("_")[0] for job_id in waiting})
        if states is None:
            return
        for job_id in waiting:
            state = states.get(job_id, "GONE")
            # what it ended with, if the queue has forgotten it since
            self._states[job_id] = self._states.get(job_id, state) if state == "GONE" else state
            self._times_ended[job_id] = self._times_ended[job_id] + 1 if state in _ENDED else 0


def queue_states(jobs: Sequence[str]) -> dict[str, str] | None:
    """The state of each of these jobs that the queue holds and that has not ended; None if it does not answer."""
    states = _squeue({job.partition("_")[0] for job in jobs}) if jobs else {}
    if states is None:
        return None
    return {job: state for job, state in states.items() if job in jobs and state not in _ENDED}


def _squeue(jobs: set[str]) -> dict[str, str] | None:
    """The state of each job that the queue knows; None if the controller does not answer."""
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(sorted(jobs))}"]
    try:
        answer = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # if it knows none of several jobs, it prints nothing
    if answer.returncode != 0 and "Invalid job id" not in answer.stderr:
        return None
    return dict(line.split() for line in answer.stdout.splitlines() if len(line.split()) == 2)


@contextlib.contextmanager
def jobs_of_a_sweep(words: Sequence[str]) -> Iterator[None]:
    """Let submitit ask the queue; if a job fails, wait for the others, then say which one and where its log is.

    Args:
        words: of the command; nothing is done unless they ask for a sweep, or a launcher.

    Raises:
        RunError: if a job failed, or ended without a result.
    """
    is_sweep = any(word in ("-m", "--multirun") or "hydra/launcher=" in word for word in words)
    if not is_sweep or find_spec("submitit") is None:
        yield
        return
    from submitit.core.utils import UncompletedJobError
    from submitit.slurm.slurm import SlurmJob

    watcher = QueueWatcher()
    # it needs no more than these methods
    SlurmJob.watcher = cast(Any, watcher)
    try:
        yield
    except UncompletedJobError as error:
        watcher.wait_for_all()
        raise RunError(one_line(str(error))) from error


def one_line(text: str) -> str:
    """One line for what submitit says in many lines about a job that failed."""
    go_on = "resume=SWEEP goes on with what is missing"
    without = re.match(r"Job (\S+) \(task: (\d+)\) with path (.*)\nhas not produced any output \(state: (\w+)\)", text)
    if without is not None:
        job, task, path, state = without.groups()
        log = Path(path).parent / f"{job}_{task}_log.err"
        return f"job {job} ended without a result ({state}); its log is {log}; {go_on}"
    trace = text.split("-" * 22)[1].strip().splitlines() if text.count("-" * 22) > 1 else text.splitlines()
    reason = re.sub(r"^lab\.\w+\.errors\.\w+: ", "", trace[-1] if trace else "sbatch failed without a reason")
    logs = [line.removeprefix("  - ") for line in text.splitlines() if line.startswith("  - /")]
    if not logs:
        # no job came to a log: this is what sbatch said
        return f"the jobs were not submitted: {reason}; change what it names, and type the command again"
    return f"a job failed: {reason}; its log is {' or '.join(logs)}; {go_on}"
