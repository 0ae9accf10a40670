"""No stream, figure or progress bar ends a run or makes it fail: work goes on, and the exit code says it was done."""

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults.share import every
from rich.live import _RefreshThread

from lab.core.errors import RunError
from lab.core.runs import figures
from lab.core.runs.console import print_summary, progress
from lab.core.runs.figures import Drawn, draw_figures, new_figure
from lab.core.streams import SteadyStream, printed, say, steady_streams

SWEEP = ("num_train=20", "widths=[6,40]", "replicates=2", "observation_noise=0.5", "figures=[]")


class Full:
    """A stream on a disk without room."""

    errors = "backslashreplace"

    def __init__(self, number: int = errno.ENOSPC) -> None:
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError(errno.EBADF, "none")


@pytest.mark.parametrize("stream", [Full(), None])
def test_a_stream_that_fails_takes_everything(stream: Any) -> None:
    steady = SteadyStream(stream)
    assert steady.write("text") == 4
    steady.flush()
    assert steady.failure is not None
    assert not steady.isatty()


@pytest.mark.parametrize("stream", [Full(), Full(errno.EIO), None])
def test_progress_and_summary_go_nowhere_without_a_stream(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    steady_streams()
    with progress("draws", 3) as advance:
        advance(2)
    print_summary("title", ["cell", "risk"], [["", "1"]], ["peak"], [])
    say("a line")


def test_a_command_whose_result_is_printed_fails_if_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(number: int, *, is_also_written: bool) -> None:
        monkeypatch.setattr(sys, "stdout", SteadyStream(Full(number)))  # type: ignore[arg-type]
        with printed(is_also_written=is_also_written):
            print("result")

    with pytest.raises(RunError, match="standard output cannot be written: No space left"):
        run(errno.ENOSPC, is_also_written=False)
    run(errno.ENOSPC, is_also_written=True)
    run(errno.EPIPE, is_also_written=False)


def test_without_a_thread_there_is_no_bar_and_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_RefreshThread, "start", refuse)
    # where there is no terminal, there is no bar either
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress("draws", 3) as advance:
        advance(2)
    assert "lab: no progress bar: can't start new thread" in capsys.readouterr().err


def test_a_figure_that_cannot_be_drawn_is_named_and_the_others_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(name: str) -> Any:
        if name == "bad":
            raise ValueError("Axis limits cannot be NaN or Inf\nsecond line")
        return Drawn(new_figure(num_panels=1)[0], {"x": [1]})

    saved = draw_figures(tmp_path, ["bad", "good"], draw)
    assert saved == [tmp_path / "good.png"]
    assert capsys.readouterr().err.startswith("lab: figure bad could not be drawn (ValueError: Axis limits cannot be")


def test_a_full_disk_is_not_taken_for_a_bad_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise RunError("full")

    monkeypatch.setattr(figures, "write_atomically", full)
    with pytest.raises(RunError, match="full"):
        draw_figures(tmp_path, ["good"], lambda name: Drawn(new_figure(num_panels=1)[0], {"x": [1]}))


STREAMS = (
    "2>/dev/full",
    ">/dev/full",
    ">&-",
    "2>&-",
    ">&- 2>&-",
    ">&- 2>&- <&-",
    "2>&1 | head -c 10",
    ">/dev/full 2>&1",
)


@pytest.mark.slow
@pytest.mark.parametrize(("streams", "workers"), every(3, list(itertools.product(STREAMS, (1, 2)))))
def test_a_sweep_is_done_whatever_becomes_of_its_streams(
    streams: str, workers: int, lab_command: tuple[str, ...], tmp_path: Path
) -> None:
    words = [*lab_command, "hmm-risk", "sweep", *SWEEP, f"workers={workers}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {streams}', "bash", *words],
        capture_output=True,
        text=True,
        # `head` may cut a letter in two
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert sum(row["kind"] != "between" for row in rows) == 6
    assert (tmp_path / "run" / "table.parquet").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stream", [">/dev/full", ">&-"])
def test_what_is_only_printed_is_refused_where_it_cannot_be(stream: str, lab_command: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$@" {stream}', "bash", *lab_command, "version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lab: standard output cannot be written")
    assert len(done.stderr.splitlines()) == 1
