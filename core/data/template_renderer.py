"""Chat templates are programs of others: they are rendered in a process with limits; see `template_process`."""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from lab.core.data import template_process
from lab.core.errors import InputError

_SCRIPT = Path(__file__).with_name("template_process.py")
# of a process that somebody else has ended
_TRIES = 2


class Renderer:
    """A process that renders templates, started when it is first asked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # a process that was forked has the streams of its parent's
        self._owner = 0
        self._lock = Lock()

    def render(self, request: Mapping[str, Any]) -> str:
        """The text of a conversation.

        Args:
            request: see `template_process.answer`.

        Raises:
            InputError: if the template refuses the conversation, cannot be rendered, or takes too long; without its
                name.
        """
        if self._owner != os.getpid():
            self._process, self._owner, self._lock = None, os.getpid(), Lock()
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            for _ in range(_TRIES):
                found = self._asked(line)
                if found:
                    break
                ended = self._end()
                if ended == -signal.SIGPROF:
                    raise InputError(f"it takes more than {template_process.CPU_SECONDS:g} s")
            else:
                raise InputError(f"the process that renders it ended with {ended}")
        content = json.loads(found)
        if "error" in content:
            raise InputError(content["error"])
        return str(content["text"])

    def _asked(self, line: bytes) -> bytes:
        """The answer; empty if the process has ended."""
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            return b""
        found = self._process.stdout.readline()
        return found if found.endswith(b"\n") else b""

    def _started(self) -> "subprocess.Popen[bytes]":
        atexit.register(self._end)
        try:
            # isolated: neither the working folder nor PYTHONPATH names what it imports
            return subprocess.Popen(
                [sys.executable, "-I", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise InputError(f"no process can be started for it ({error.strerror})") from None

    def _end(self) -> int:
        """End the process; its exit code, negative for a signal."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return 0
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            # what could not be written is lost with the process
            with suppress(BrokenPipeError):
                stream.close()
        return process.wait()


RENDERER = Renderer()
