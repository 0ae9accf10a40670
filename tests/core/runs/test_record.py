"""A run directory survives every way in which a run can end, and one process holds it at a time."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import RunError
from lab.core.runs import folder_lock, metrics_file, record
from lab.core.runs.record import Extension, Run
from lab.core.runs.sums import SUMS

CONFIG = {"seed": 0, "hmm": {"state_dim": 5, "noise": [0.5, 1.0]}}
ROWS = [{"cell": index, "risk": 0.1 * index, "label": "ä, 1"} for index in range(4)]


def opened(directory: Path, config: dict[str, Any] = CONFIG) -> Run:
    return Run(directory, config, ["seed=0"], {"commit": None}, b"")


def status(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "status.json").read_text())
    return content


def test_a_finished_run_holds_what_it_was_given(tmp_path: Path) -> None:
    with Run(tmp_path, CONFIG, ["seed=0"], {"commit": "abc"}, "a patch") as run:
        assert status(tmp_path)["status"] == "running"
        run.log(ROWS)
        run.save_summary(["a", "b"], [["1", 1 / 3], ["2", math.nan]], ["peak"])
        run.set_headline("title", "headline")
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    assert json.loads((tmp_path / "overrides.json").read_text()) == ["seed=0"]
    assert json.loads((tmp_path / "provenance.json").read_text()) == {"commit": "abc", "patch": "source.patch"}
    assert (tmp_path / "source.patch").read_text() == "a patch"
    summary = {"columns": ["a", "b"], "rows": [["1", 1 / 3], ["2", None]], "verdict": ["peak"]}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    found = status(tmp_path)
    assert (found["status"], found["title"], found["headline"]) == ("finished", "title", "headline")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [{**row, "crc32": line["crc32"]} for row, line in zip(ROWS, lines, strict=True)] == lines


def test_a_continued_run_finds_its_rows_and_keeps_its_start(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS[:2])
    record = status(tmp_path) | {"started": "2020-01-01T00:00:00+00:00"}
    (tmp_path / "status.json").write_text(json.dumps(record))
    (tmp_path / SUMS).unlink()
    with opened(tmp_path) as run:
        assert list(run.rows) == ROWS[:2]
        run.log(ROWS[2:])
    with opened(tmp_path) as run:
        assert list(run.rows) == ROWS
    assert status(tmp_path)["started"] == "2020-01-01T00:00:00+00:00"


def extended(directory: Path, **changes: Any) -> Run:
    extension = Extension(grows=frozenset({"draws"}), free=frozenset({"figures"}))
    config = {"seed": 0, "draws": 3, "figures": ["a"]} | changes
    return Run(directory, config, [f"draws={config['draws']}"], {"commit": None}, b"", extension=extension)


def test_a_run_goes_on_with_more_work_and_other_figures_but_never_with_less(tmp_path: Path) -> None:
    with extended(tmp_path) as run:
        run.log(ROWS)
    with extended(tmp_path, draws=5, figures=["b", "c"]) as run:
        assert list(run.rows) == ROWS
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 0, "draws": 5, "figures": ["b", "c"]}
    assert json.loads((tmp_path / "overrides.json").read_text()) == ["draws=5"]
    for changes, words in (
        ({"draws": 4}, "draws=5, not 4; give 5 or more"),
        ({"draws": None}, "draws=5, not None"),
        ({"draws": 5, "seed": 1}, "seed=0, not 1; keep that value"),
    ):
        with pytest.raises(RunError, match=words):
            extended(tmp_path, **changes)
    with extended(tmp_path, draws=5):
        pass


def test_a_last_line_torn_at_any_byte_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_bytes()
    for length in range(len(whole) + 1):
        metrics.write_bytes(whole[:length])
        complete = whole[:length].count(b"\n")
        with opened(tmp_path) as run:
            assert list(run.rows) == ROWS[:complete]
            run.log(ROWS[complete:])
        assert metrics.read_bytes() == whole


def test_a_refused_run_is_not_marked_running_and_can_be_opened_again(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
    for _ in range(2):
        with pytest.raises(RunError, match="seed=0, not 1"):
            opened(tmp_path, {**CONFIG, "seed": 1})
    assert status(tmp_path)["status"] == "finished"
    with opened(tmp_path) as run:
        assert list(run.rows) == ROWS


@pytest.mark.parametrize("content", ["", "{", "[]", None])
def test_a_status_that_is_damaged_stops_nobody(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
    path = tmp_path / "status.json"
    path.unlink() if content is None else path.write_text(content)
    with opened(tmp_path) as run:
        assert list(run.rows) == ROWS
    said = capsys.readouterr().err
    assert said == f"lab: {path} is missing or damaged and written anew; the run goes on\n"
    assert status(tmp_path)["status"] == "finished"


def test_a_run_is_open_in_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "_PAUSE_S", 0.0)
    with opened(tmp_path) as run:
        with pytest.raises(RunError, match="is open in another process"):
            opened(tmp_path)
        program = (
            "import sys; from pathlib import Path; from lab.core.runs.record import Run; "
            "Run(Path(sys.argv[1]), {}, [], {}, '')"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert "is open in another process; wait for it, or start a new run" in done.stderr
        run.log(ROWS)
    opened(tmp_path).__exit__(None, None, None)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 1, "hmm": CONFIG["hmm"]}, "seed=0, not 1"),
        ({"seed": 0, "hmm": {"state_dim": 6, "noise": [0.5, 1.0]}}, r"hmm\.state_dim=5, not 6"),
        ({"seed": 0, "hmm": {"state_dim": 5, "noise": [0.5]}}, r"hmm\.noise=\[0\.5, 1\.0\], not \[0\.5\]"),
        ({"hmm": CONFIG["hmm"]}, "seed=0, not absent"),
        ({**CONFIG, "new": None}, "new=absent, not None"),
    ],
)
def test_another_configuration_is_refused_by_key_and_values(
    other: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=message):
        opened(tmp_path, other)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00"])
def test_a_damaged_configuration_is_refused_by_its_path(content: bytes, tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / SUMS).unlink()
    with pytest.raises(RunError, match=r"config.json (is not (valid JSON|a JSON object)|cannot be read)"):
        opened(tmp_path)


def test_a_run_killed_between_its_first_files_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    write, count = record.write_atomically, 0
    for survivors in range(4):
        directory = tmp_path / str(survivors)
        count = 0

        def dying(path: Path, content: bytes | str, survivors: int = survivors) -> None:
            nonlocal count
            if count == survivors:
                raise Killed
            count += 1
            write(path, content)

        monkeypatch.setattr(record, "write_atomically", dying)
        with pytest.raises(Killed):
            opened(directory)
        monkeypatch.setattr(record, "write_atomically", write)
        with opened(directory) as run:
            run.log(ROWS)
        assert status(directory)["status"] == "finished"


def test_a_failure_is_recorded_and_rises(tmp_path: Path) -> None:
    def fail() -> None:
        with opened(tmp_path) as run:
            run.log(ROWS)
            raise ZeroDivisionError("first line\nsecond line")

    with pytest.raises(ZeroDivisionError):
        fail()
    found = status(tmp_path)
    assert (found["status"], found["error"]) == ("failed", "ZeroDivisionError: first line")
    with opened(tmp_path) as run:
        assert list(run.rows) == ROWS
    assert "error" not in status(tmp_path)


def interrupt_from_keyboard() -> None:
    raise KeyboardInterrupt


def interrupt_from_cluster() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("interrupt", [interrupt_from_keyboard, interrupt_from_cluster])
def test_an_interrupted_run_says_so(interrupt: Callable[[], None], tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with opened(tmp_path) as run:
            run.log(ROWS)
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert status(tmp_path)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == handler
    with opened(tmp_path) as run:
        assert list(run.rows) == ROWS


def fail_when_full(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS[:2])
        run.log(ROWS[2:])


def test_a_disk_that_fills_up_keeps_the_earlier_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def until_full(handle: int, content: bytes) -> int:
        """Ten bytes of the second write, and then no more."""
        if b'"cell": 2' in content:
            return write(handle, content[:10])
        if b'"cell": 0' in content or b'"cell"' not in content:
            return write(handle, content)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(metrics_file.os, "write", until_full)
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be written: the disk is full; free some space"):
        fail_when_full(tmp_path)
    monkeypatch.undo()
    assert status(tmp_path)["status"] == "failed"
    with opened(tmp_path) as run:
        assert list(run.rows) == ROWS[:2]


def test_a_real_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        written: list[Run] = []
        with pytest.raises(RunError, match="the disk is full; free some space"):
            fill(disk / "run", written)
        metrics = disk / "run" / "metrics.jsonl"
        # room for the continuation, cut in the middle of a line
        metrics.write_bytes(metrics.read_bytes()[: metrics.stat().st_size // 2])
        with opened(disk / "run") as again:
            assert len(again.rows) > 0
            assert list(again.rows) == written[0].rows[: len(again.rows)]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(directory: Path, written: list[Run]) -> None:
    with opened(directory) as run:
        written.append(run)
        for _ in range(5000):
            run.log(ROWS)


def test_infinity_and_nan_come_back(tmp_path: Path) -> None:
    numbers = [math.inf, -math.inf, math.nan, -0.0, 5e-324, 0.1 + 0.2]
    with opened(tmp_path) as run:
        run.log([{"risk": number} for number in numbers])
    with opened(tmp_path) as run:
        assert repr([row["risk"] for row in run.rows]) == repr(numbers)


def test_rows_of_unfinished_work_are_dropped_for_good(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
        run.keep(lambda row: row["cell"] == 0)
        run.log(ROWS[2:3])
    with opened(tmp_path) as run:
        assert list(run.rows) == [ROWS[0], ROWS[2]]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("in the way")
    with pytest.raises(RunError, match=r"LAB_OUTPUTS"):
        opened(tmp_path / "outputs" / "run")


def test_a_run_of_another_version_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
    status = json.loads((tmp_path / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps(status | {"schema_version": 1}))
    (tmp_path / "provenance.json").write_text(json.dumps({"commit": "561d9f3"}))
    (tmp_path / SUMS).unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    message = "run format 1, recorded by lab at commit 561d9f3; this lab reads format 4: start the run again"
    with pytest.raises(RunError, match=message), opened(tmp_path):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
