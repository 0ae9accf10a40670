"""What a signal does that ends a run, where nobody handles it yet."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from lab.core.runs import slurm
from lab.core.streams import say

# Ctrl-C; the end of a cluster job; the warnings that are sent ahead of it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

Handler = Callable[[int, FrameType | None], object] | int | None


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

    A handler that is already there is left alone: it knows better what a signal means. In a Slurm job, all signals but
    Ctrl-C announce that the job will end; the job is requeued first, or the signal is ignored where Slurm does that
    (docs/why/012-a-pre-empted-job.md).
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
        self._is_ending = False
        self._goes_on_unasked = False

    def __enter__(self) -> Self:
        # only the main thread receives signals and may set handlers
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                outer = getattr(handler, "__self__", None)
                if isinstance(outer, EndSignals):
                    self._outer = outer
                elif handler not in (signal.SIG_DFL, signal.default_int_handler):
                    continue
                self._handlers[number] = signal.signal(number, self._answer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_ending and self._is_process:
            # the interpreter leaves an ignored signal alone until it is gone
            self._handlers = dict.fromkeys(self._handlers, signal.SIG_IGN)
        elif self._is_ending and self._outer is not None:
            self._outer._is_ending = True
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self._is_ending or (number != signal.SIGINT and self._goes_on(signal.Signals(number).name)):
            return
        self._is_ending = True
        raise KeyboardInterrupt

    def _goes_on(self, name: str) -> bool:
        """Whether the run goes on in spite of a signal; if not, its job is requeued, or needs not be."""
        job = slurm.job_label()
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
        if not (state.is_running and state.can_be_requeued):
            return False
        if _progress(self._run) <= self._before:
            say(f"{name}: nothing was recorded since job {job} started; going on until Slurm ends it")
            return True
        reason = slurm.requeue(job)
        if reason is not None:
            say(f"{name}: job {job} cannot be requeued ({reason}); going on until Slurm ends it")
            return True
        say(f"{name}: job {job} is requeued, and goes on from what is recorded")
        return False


def _progress(run: Path | None) -> tuple[int, int]:
    """What a run has recorded, as numbers that rise: steps of its checkpoints, and bytes of its results."""
    if run is None:
        return (0, 0)
    newest: dict[Path, int] = {}
    for path in sorted(run.glob("checkpoints/*/step_*")):
        newest[path.parent] = int(path.name.rpartition("_")[2])
    metrics = run / "metrics.jsonl"
    return (sum(newest.values()), metrics.stat().st_size if metrics.exists() else 0)
