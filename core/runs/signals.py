"""What a signal does that ends a run, where nobody handles it yet."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from lab.core.runs import slurm
from lab.core.runs.early_signals import SIGNALS, end_at_once
from lab.core.streams import say

Handler = Callable[[int, FrameType | None], object] | int | None

# between two looks whether an import has ended
_SECONDS_OF_IMPORTS = 0.05

# between two looks whether a run has recorded something
_SECONDS_OF_LOOKS = 1.0

# A job whose end is further away is not warned of that: it is signalled for another reason, perhaps with less time.
_SECONDS_OF_WARNING = 240

# where nobody has decided yet what a signal means
_UNDECIDED = (signal.SIG_DFL, signal.default_int_handler, end_at_once)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started meanwhile do not receive these signals, which a terminal or a cluster sends to all.

    Whoever started them decides what ends, and ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class EndSignals:
    """A context in which signals raise KeyboardInterrupt, once: what cleans up afterwards is not disturbed.

    An import is finished first: numpy and torch do not survive an exception in the middle of theirs. Without a run, the
    process ends instead. Where a library swallows the exception, the next signal raises it again.

    A handler that is already there is left alone: it knows better what a signal means. In a Slurm job, all signals but
    Ctrl-C announce that the job will end; the job is requeued first, or the signal is ignored where Slurm does that
    (docs/why/012-a-pre-empted-job.md). One that comes before anything was recorded, or early in a job with a short time
    limit, is answered later.
    """

    def __init__(self, run: Path | None = None, *, is_process: bool = False) -> None:
        """Nothing is changed yet.

        Args:
            run: the run that the signals end; None if none has begun.
            is_process: whether the process ends with the context, so that signals stay without effect after the first.
        """
        self._run = run
        self._before = _progress(run)
        self._is_process = is_process
        self._handlers: dict[int, Handler] = {}
        self._outer: EndSignals | None = None
        self._raised: KeyboardInterrupt | None = None
        self._goes_on_unasked = False
        self._begun = time.time()
        # the signal that is answered later, and when the job ends
        self._waiting: int | None = None
        self._job_ends: float | None = None

    def __enter__(self) -> Self:
        # only the main thread receives signals and may set handlers
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                outer = getattr(handler, "__self__", None)
                if isinstance(outer, EndSignals):
                    self._outer = outer
                elif handler not in _UNDECIDED:
                    continue
                self._handlers[number] = signal.signal(number, self._answer)
        if self._outer is not None and self._run is not None:
            self._take_over(self._outer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if signal.SIGALRM in self._handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)
        is_ending = self._raised is not None and _leads_to(error, self._raised)
        if is_ending and self._is_process:
            # the interpreter leaves an ignored signal alone until it is gone
            self._handlers = dict.fromkeys(self._handlers, signal.SIG_IGN)
        elif is_ending and self._outer is not None:
            self._outer._raised = self._raised
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._outer is not None and self._waiting is not None and not is_ending:
            self._outer._take_over(self)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self._raised is not None and _leads_to(sys.exception(), self._raised):
            return
        if number not in (signal.SIGINT, signal.SIGALRM) and self._goes_on(signal.Signals(number)):
            return
        self._waiting = None
        if _is_importing(frame):
            self._answer_later()
            return
        self._raised = KeyboardInterrupt()
        raise self._raised

    def _answer_later(self) -> None:
        if self._run is None:
            end_at_once(signal.SIGINT, None)
        self._look_after(_SECONDS_OF_IMPORTS)

    def _take_over(self, other: "EndSignals") -> None:
        """Answer, instead of another context, the signal that it has not answered yet."""
        self._waiting, self._job_ends, other._waiting = other._waiting, other._job_ends, None
        self._wait()

    def _wait(self) -> None:
        """Look in a while whether the signal can be answered; without a run, nothing can be recorded."""
        if self._waiting is not None and self._run is not None:
            self._look_after(max(_SECONDS_OF_LOOKS, self._seconds_to_half()))

    def _seconds_to_half(self) -> float:
        """How long a job that ends soon has until half of its time is used, so that it is not spent on starts."""
        if self._job_ends is None:
            return 0
        now = time.time()
        left = self._job_ends - now
        return max(0, (left - (now - self._begun)) / 2) if left <= _SECONDS_OF_WARNING else 0

    def _why_later(self) -> str | None:
        """Why a signal is answered later; None if it can be answered now."""
        if _progress(self._run) <= self._before:
            return "nothing was recorded since job {job} started; going on until something is"
        return "job {job} has just started; going on for half of its time" if self._seconds_to_half() > 0 else None

    def _look_after(self, seconds: float) -> None:
        if signal.SIGALRM not in self._handlers:
            self._handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _look(self, number: int, frame: FrameType | None) -> None:
        if self._waiting is None:
            self._answer(number, frame)
        elif self._why_later() is not None:
            self._wait()
        else:
            again, self._waiting = self._waiting, None
            # to whoever answers it by now: a training writes a checkpoint first
            signal.raise_signal(again)

    def _goes_on(self, number: signal.Signals) -> bool:
        """Whether the run goes on in spite of a signal; if not, its job is requeued, or needs not be."""
        name, job = number.name, slurm.job_label()
        if job is None:
            return False
        state = slurm.state_of(job)
        if state is None:
            # a signal that was not meant to be answered in this way can be sent again
            is_first, self._goes_on_unasked = not self._goes_on_unasked, True
            if is_first:
                say(
                    f"{name}: Slurm does not answer about job {job}; going on until it ends the job, or a second signal"
                )
            return is_first
        if not state.is_running:
            say(f"{name}: job {job} is {state.word}, and ends")
            return False
        if not state.can_be_requeued:
            say(f"{name}: job {job} ends, since Slurm does not requeue it")
            return False
        self._job_ends = state.ends
        later = self._why_later()
        if later is not None:
            say(f"{name}: {later.format(job=job)}")
            self._waiting = number
            self._wait()
            return True
        reason = slurm.requeue(job)
        if reason is not None:
            say(f"{name}: job {job} cannot be requeued ({reason}); going on until Slurm ends it")
            return True
        say(f"{name}: job {job} is requeued, and goes on from what is recorded")
        return False


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
            return True
        frame = frame.f_back
    return False


def _leads_to(error: BaseException | None, cause: BaseException) -> bool:
    """Whether an exception is that one, or was raised while it was handled."""
    while error is not None and error is not cause:
        error = error.__context__
    return error is cause


def _progress(run: Path | None) -> tuple[int, int]:
    """What a run has recorded, as numbers that rise: steps of its checkpoints, and bytes of its results."""
    if run is None:
        return (0, 0)
    newest: dict[Path, int] = {}
    for path in sorted(run.glob("checkpoints/*/step_*")):
        newest[path.parent] = int(path.name.rpartition("_")[2])
    metrics = run / "metrics.jsonl"
    return (sum(newest.values()), metrics.stat().st_size if metrics.exists() else 0)
