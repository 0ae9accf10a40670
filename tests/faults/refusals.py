"""Whether a command is refused as it must be: one line, exit code 2, soon, in little memory, with nothing written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_SECONDS = 5
MOST_BYTES = 10**9

# what Typer says of a command line that it cannot parse
_TYPERS = re.compile(r"Usage: [^\n]*\n(Try [^\n]*\n)?\n?Error: [^\n]*\n")


@dataclass(frozen=True, slots=True)
class Left:
    """What a command left behind.

    Attributes:
        code: exit code, negative for a signal.
        out: standard output.
        err: standard error.
        seconds: CPU time, which a busy machine does not change.
        num_bytes: largest memory.
        written: files that were not there before.
    """

    code: int
    out: str
    err: str
    seconds: float
    num_bytes: int
    written: tuple[str, ...]

    def fault(self, *, may_print: bool = False) -> str | None:
        """What is wrong with it as a refusal, that may print something or not; None if nothing is."""
        is_line = self.err.startswith("lab: ") and self.err.count("\n") == 1 and self.err.endswith("\n")
        if self.code != 2:
            return f"exit code {self.code}: {(self.err or self.out)[-300:]!r}"
        if not is_line and not _TYPERS.fullmatch(self.err):
            return f"not one line: {self.err[:300]!r}"
        if self.out and not may_print:
            return f"prints {self.out[:100]!r}"
        if self.written:
            return f"writes {self.written}"
        if self.seconds > MOST_SECONDS:
            return f"takes {self.seconds:.1f} s"
        return f"takes {self.num_bytes / 1e6:.0f} MB" if self.num_bytes > MOST_BYTES else None


class Commands:
    """Commands in children of a process that has everything loaded; see tests/command_server.py."""

    def __init__(self, server: "subprocess.Popen[str]", folder: Path) -> None:
        self._server = server
        self._folder = folder

    def left_by(self, words: Sequence[str]) -> Left:
        """Run a command in a folder that holds only the files in `given`."""
        streams = self._folder.parent / "out", self._folder.parent / "err"
        for path in streams:
            path.write_text("")
        before = set(_names(self._folder))
        env = {**os.environ, "LAB_OUTPUTS": str(self._folder / "outputs"), "COLUMNS": "200"}
        request = {"arguments": list(words), "cwd": str(self._folder), "env": env}
        request |= {"out": str(streams[0]), "err": str(streams[1]), "seconds": 4 * MOST_SECONDS}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        code, seconds, kilobytes = self._server.stdout.readline().split()
        out, err = (path.read_text(errors="replace") for path in streams)
        written = tuple(sorted(set(_names(self._folder)) - before))
        return Left(int(code), out, err, float(seconds), 1024 * int(kilobytes), written)


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def report(faults: Sequence[tuple[Sequence[str], str]], total: int) -> str:
    """Totals, and every command that is not refused as it must be."""
    lines = [f"{total - len(faults)} of {total} are refused in one line with exit code 2"]
    lines += [f"lab {' '.join(words)[-200:]}\n    {fault}" for words, fault in faults]
    text = "\n".join(lines)
    print(text, file=sys.stderr)
    return text
