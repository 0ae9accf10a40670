"""The command in children of a process that has everything loaded; see tests/command_server.py."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


@contextmanager
def command_server(*more: str) -> "Iterator[subprocess.Popen[str]]":
    """A process that has loaded what commands load, and more modules, for commands that read models of theirs."""
    words = [sys.executable, str(Path(__file__).with_name("command_server.py")), *more]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server


def forked_by(server: "subprocess.Popen[str]", streams: Path) -> Callable[..., Finished]:
    """Run the command in a forked process, in the folder `cwd`; in several, with `ranks`: the variables of each.

    Args:
        server: as started here.
        streams: a folder for what a command says.
    """

    def run(
        *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, ranks: Sequence[Mapping[str, str]] = ({},)
    ) -> Finished:
        out, err = streams / "out", streams / "err"
        for path in (out, err):
            path.write_text("")
        said = {"out": str(out), "err": str(err)}
        request = {"arguments": arguments, "cwd": str(cwd), "env": {**os.environ, **(env or {})}, **said}
        asked, answered = server.stdin, server.stdout
        assert asked is not None
        assert answered is not None
        print(json.dumps({**request, "ranks": list(map(dict, ranks))}), file=asked, flush=True)
        # seconds, on a machine that has nothing else to do
        is_over, _, _ = select.select([answered], [], [], 1200)
        if not is_over:
            server.kill()
            pytest.fail(f"lab {' '.join(arguments)} does not end; {err.read_text()}")
        return Finished(int(answered.readline().split()[0]), out.read_text(), err.read_text())

    return run
