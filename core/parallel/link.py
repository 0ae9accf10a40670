"""What the processes of a run know of each other while they compute: who failed, died, was stopped or waits in vain.

A thread in each looks into a store, which torchrun or the first process holds, and at the processes on the same
machine. So a process that dies or hangs is named, and ends the others, whatever they wait for.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING

from lab.core.errors import RunError
from lab.core.parallel.end import DEAD, GO_ON, STOOD, End
from lab.core.parallel.launched import Launched
from lab.core.processes import state_of
from lab.core.runs.early_signals import INTERRUPTED, SIGNALS
from lab.core.streams import say

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

# between two looks
_SECONDS = 0.3
# for recording how a run ended; for the first process to say what all have found, and for whoever has found it first
_SECONDS_OF_GRACE = 5.0
_SECONDS_AHEAD, _SECONDS_OF_ECHO = 1.0, 30.0
_SECONDS_OF_STORE = 60.0

# states of a process that is none any more
_GONE = (None, "Z", "X")
_STOPPED = ("T", "t")


class Link:
    """The store, and the thread that looks into it.

    Attributes:
        timeout: seconds after which a process that does not answer is given up.
    """

    def __init__(self, launched: Launched, *, timeout: float = 600.0) -> None:
        """Connect to the store.

        Args:
            launched: this process.
            timeout: see the attribute.

        Raises:
            RunError: if the store cannot be reached.
        """
        from torch._C._distributed_c10d import PrefixStore, TCPStore  # noqa: PLC0415

        self.timeout = timeout
        self.launched = launched
        address = launched.address
        assert address is not None, "it is refused before"

        def connect(*, is_server: bool) -> TCPStore:
            return TCPStore(
                address,
                launched.port,
                is_master=is_server,
                timeout=timedelta(seconds=_SECONDS_OF_STORE),
                wait_for_workers=False,
            )

        try:
            # two connections: one that waits does not hold up the other
            self._whole = connect(is_server=launched.rank == 0 and not launched.has_agent)
            self._store = PrefixStore(f"lab/{launched.attempt}", connect(is_server=False))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"MASTER_ADDR={launched.address} MASTER_PORT={launched.port}: no store answers there ({reason}); start "
                "the processes with torchrun, or let the first one listen there"
            ) from error
        self._host = socket.gethostname()
        self._signal: int | None = None
        self._arrivals = 0
        self._waits_since: float | None = None
        self._end: End | None = None
        self._ends_at: float | None = None
        self._is_left = threading.Event()
        self._peers: dict[int, tuple[str, int]] = {}
        self._absent: dict[int, int] = {}
        self._silent_since: dict[int, tuple[str, float]] = {}
        self._stopped_since: dict[int, float] = {}
        self._beats = 0
        self._store.set(self._key("process"), f"{self._host} {os.getpid()}")
        self._looked_at = time.monotonic()
        self._about_store: str | None = None
        self._thread = threading.Thread(target=self._look, daemon=True, name="link")
        self._thread.start()
        threading.Thread(target=self._guard, daemon=True, name="guard").start()

    @property
    def group_store(self) -> "Store":
        """For the process group of this attempt."""
        from torch._C._distributed_c10d import PrefixStore  # noqa: PLC0415

        return PrefixStore(f"group/{self.launched.attempt}", self._whole)

    def forward_signals(self) -> None:
        """Hand signals to the first process, which answers for all: here they have no other effect."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the others are waited for; a process that comes there later than all is one that hangs."""
        self._arrivals += 1
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since = None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of what the processes exchange become the reason why they are raised: a process that is gone.

        Raises:
            RunError: with the line about it.
        """
        try:
            yield
        except RuntimeError as error:
            end = self._reason()
            if end is None:
                raise
            raise RunError(end.line) from error

    def leave(self) -> None:
        """This process has done its part, and may end."""
        with suppress(RuntimeError):
            self._store.set(self._key("left"), "1")
        self._wait_for_others("left", self.timeout)
        self._is_left.set()
        self._thread.join()

    def fail(self, line: str | None, code: int, *, is_echo: bool = False) -> int:
        """End all processes with a line, unless another one has ended them already; the exit code.

        Args:
            line: is said; None if nothing is, as for a bug, whose traceback Python prints.
            code: of the process.
            is_echo: whether another process is about to say why.
        """
        dead = self._dead() if code == INTERRUPTED else None
        if dead is not None:
            # torchrun signals the others when one is gone: that is the reason
            code = self._claim(dead).code
            self._wait_for_others("told", _SECONDS_OF_GRACE)
            return code
        if self.launched.rank > 0:
            until = time.monotonic() + (_SECONDS_OF_ECHO if is_echo else _SECONDS_AHEAD)
            while time.monotonic() < until and self._found_end() is None:
                time.sleep(_SECONDS / 3)
        said = (line or "") if code == INTERRUPTED else f"rank {self.launched.rank}: {line}"
        code = self._claim(End(self.launched.rank, code, said), is_said=line is not None).code
        self._wait_for_others("told", _SECONDS_OF_GRACE)
        return code

    def _wait_for_others(self, what: str, seconds: float) -> None:
        """Whoever holds the store leaves last, and tells the others before why it ends."""
        if self.launched.has_agent or self.launched.rank > 0:
            return
        until = time.monotonic() + seconds
        with suppress(RuntimeError):
            for rank in self._others():
                while time.monotonic() < until and not self._store.check([self._key(what, rank)]):
                    host, process = self._peer(rank)
                    if host == self._host and state_of(process) in _GONE:
                        break
                    time.sleep(_SECONDS / 3)

    def has_lost(self) -> bool:
        """Whether one of the others is gone, or has ended the run."""
        return self._found_end() is not None or self._dead() is not None

    def _dead(self) -> End | None:
        """A process of this machine that is gone without a word."""
        with suppress(RuntimeError):
            for rank in self._others():
                host, process = self._peer(rank)
                if host == self._host and state_of(process) in _GONE and self._found_end() is None:
                    return self._line(rank, DEAD)
        return None

    def _others(self) -> Iterator[int]:
        """The other processes that have not done their part."""
        for rank in range(self.launched.size):
            if rank != self.launched.rank and not self._store.check([self._key("left", rank)]):
                yield rank

    def _claim(self, end: End, *, is_said: bool = True) -> End:
        """End all processes; the end that came first."""
        mine = json.dumps(end)
        try:
            first = End(*json.loads(self._store.compare_set("over", "", mine)))
        except (RuntimeError, ValueError):
            # whoever holds the store is gone, and with it what tells the others: the lowest of them speaks
            first, is_said = end, is_said and self.launched.rank <= 1
        if self._end is None:
            self._end, self._ends_at = first, time.monotonic() + _SECONDS_OF_GRACE
            if is_said and first == end:
                say(end.line, is_last=True)
        return self._end

    def _found_end(self) -> End | None:
        if self._end is None:
            with suppress(RuntimeError, ValueError):
                if self._store.check(["over"]):
                    self._end = End(*json.loads(self._store.get("over")))
                    self._store.set(self._key("told"), "1")
                    self._ends_at = time.monotonic() + _SECONDS_OF_GRACE
        return self._end

    def _reason(self) -> End | None:
        """Why the others do not answer; waits until the thread has found out."""
        until = time.monotonic() + 10 * _SECONDS
        while time.monotonic() < until and self._end is None:
            time.sleep(_SECONDS / 3)
        return self._end

    def _look(self) -> None:
        while not self._is_left.wait(_SECONDS):
            self._looked_at = time.monotonic()
            if self._ends_at is not None and time.monotonic() > self._ends_at:
                assert self._end is not None, "set together"
                os._exit(self._end.code)
            if self._found_end() is not None:
                continue
            try:
                self._tell()
                lost = self._lost()
            except RuntimeError:
                lost = self._line(0, self._about_store or DEAD) if self.launched.rank else None
            if lost is not None:
                self._claim(lost)

    def _guard(self) -> None:
        """Notice that the store does not answer, for which the thread that looks into it waits without end."""
        stopped_since: float | None = None
        while not self._is_left.wait(_SECONDS):
            now = time.monotonic()
            host, process = ("", 0) if self.launched.has_agent else self._peers.get(0, ("", 0))
            is_stopped = host == self._host and self.launched.rank > 0 and state_of(process) in _STOPPED
            stopped_since = (stopped_since or now) if is_stopped else None
            if stopped_since is not None and now - stopped_since > self.timeout:
                self._about_store = STOOD.format(self.timeout)
                with suppress(ProcessLookupError, PermissionError):
                    # who waits for it is told that it is gone
                    os.kill(process, signal.SIGKILL)
            if now - self._looked_at > self.timeout + _SECONDS_OF_GRACE:
                if self.launched.rank <= 1:
                    where = f"{self.launched.address}:{self.launched.port}"
                    say(f"the store at {where} has not answered for {self.timeout:g} s; {GO_ON}", is_last=True)
                os._exit(2)

    def _tell(self) -> None:
        """Say that this process is there, and what it was told."""
        self._beats += 1
        self._store.set(self._key("beat"), f"{self._beats} {self._arrivals}")
        if self._signal is not None:
            number, self._signal = self._signal, None
            self._store.set("signal", str(number))
        if self.launched.rank == 0 and self._store.check(["signal"]):
            number = int(self._store.get("signal"))
            self._store.delete_key("signal")
            # Ctrl-C reaches this process too, and a second one would end it at once
            number = signal.SIGTERM if number == signal.SIGINT else number
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _lost(self) -> End | None:
        """The first process that is dead, stopped, silent or late for too long."""
        now = time.monotonic()
        for rank in self._others():
            host, process = self._peer(rank)
            if host == self._host:
                found = self._lost_here(rank, process, now)
                if found is not None:
                    return found
            if host and self._is_silent(rank, now):
                return self._line(rank, f"has not answered for {self.timeout:g} s")
        if self._waits_since is not None and now - self._waits_since > self.timeout:
            late = [rank for rank in range(self.launched.size) if self._arrivals_of(rank) < self._arrivals]
            if late:
                return self._line(late[0], f"is behind the others for {self.timeout:g} s")
        return None

    def _lost_here(self, rank: int, process: int, now: float) -> End | None:
        state = state_of(process)
        if state in _GONE:
            # twice: it may have ended well a moment ago
            self._absent[rank] = self._absent.get(rank, 0) + 1
            is_gone = self._absent[rank] > 1 and self._found_end() is None
            return self._line(rank, DEAD) if is_gone else None
        if state not in _STOPPED:
            self._stopped_since.pop(rank, None)
        elif now - self._stopped_since.setdefault(rank, now) > self.timeout:
            end = self._line(rank, STOOD.format(self.timeout))
            with suppress(ProcessLookupError, PermissionError):
                # it would outlive the others, and a signal that can be handled does not reach it
                os.kill(process, signal.SIGKILL)
            return end
        return None

    def _is_silent(self, rank: int, now: float) -> bool:
        key = self._key("beat", rank)
        beat = self._store.get(key).decode() if self._store.check([key]) else ""
        before, since = self._silent_since.setdefault(rank, (beat, now))
        if beat != before:
            self._silent_since[rank] = (beat, now)
        return beat == before and now - since > self.timeout

    def _arrivals_of(self, rank: int) -> int:
        key = self._key("beat", rank)
        return int(self._store.get(key).split()[1]) if self._store.check([key]) else 0

    def _peer(self, rank: int) -> tuple[str, int]:
        """Host and process of a rank; none as long as it has not begun."""
        if rank not in self._peers:
            key = self._key("process", rank)
            if not self._store.check([key]):
                return "", 0
            host, process = self._store.get(key).decode().split()
            self._peers[rank] = host, int(process)
        return self._peers[rank]

    def _line(self, rank: int, what: str) -> End:
        host, process = self._peers.get(rank, ("", 0))
        who = f"rank {rank} (process {process} on {host})" if host else f"rank {rank}"
        return End(self.launched.rank, 2, f"{who} {what}; all processes end with it, and {GO_ON}")

    def _key(self, what: str, rank: int | None = None) -> str:
        return f"{what}/{self.launched.rank if rank is None else rank}"

    def _note(self, number: int, frame: FrameType | None) -> None:
        # srun signals the first process too
        self._signal = None if self.launched.is_step else number
