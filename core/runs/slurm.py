"""The Slurm job that this process is part of: its name, and how it is requeued."""

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime

# a controller that is busy answers late
_SECONDS = 20

# Words of scontrol for a job that has its resources. While a signal is on its way, it is SIGNALING instead of RUNNING.
RUNNING = ("RUNNING", "SIGNALING", "CONFIGURING", "RESIZING", "STOPPED", "SUSPENDED")


@dataclass(frozen=True, slots=True)
class JobState:
    """What the controller says about a job.

    Attributes:
        word: what scontrol calls its state.
        can_be_requeued: it is a batch job, and was not submitted with --no-requeue.
        ends: when its time or its grace time is over, in seconds since 1970; None if that is not known.
    """

    word: str
    can_be_requeued: bool
    ends: float | None

    @property
    def is_running(self) -> bool:
        """Whether it is neither ending nor waiting; during the grace time of a pre-emption it still is running."""
        return self.word in RUNNING


def job_label() -> str | None:
    """`7`, or `7_3` for a task of an array, as users write it; None outside of jobs. A requeued job keeps it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # the number of an array's last task is that of the whole array
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID") or None


def restart_count() -> int:
    """How often the job was requeued so far."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def state_of(job: str) -> JobState | None:
    """What the controller says about a job; None if it does not answer, as in a container without Slurm."""
    answer = _scontrol("show", "job", job)
    if answer.returncode != 0:
        return None
    # at the beginning of a line: the job's name may hold anything
    state = re.search(r"^\s+JobState=(\w+)", answer.stdout, re.MULTILINE)
    flags = re.search(r"^\s+Requeue=(\d) .*BatchFlag=(\d)", answer.stdout, re.MULTILINE)
    if state is None or flags is None:
        return None
    return JobState(state[1], flags.groups() == ("1", "1"), _end(answer.stdout))


def _end(answer: str) -> float | None:
    found = re.search(r"^\s+StartTime=\S+ EndTime=(\S+)", answer, re.MULTILINE)
    try:
        # Slurm prints local time
        return datetime.fromisoformat(found[1]).astimezone().timestamp() if found is not None else None
    except ValueError:
        return None


def requeue(job: str) -> str | None:
    """Requeue a job, which ends it here; what hinders it, if it cannot be."""
    answer = _scontrol("requeue", job)
    return None if answer.returncode == 0 else " ".join(answer.stderr.split()) or "scontrol failed"


def _scontrol(*words: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["scontrol", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            # names of jobs and folders need not be UTF-8
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
