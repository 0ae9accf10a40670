"""Trackers: what they get, that it can be read back by their own readers, and that none can stop a run."""

import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import ConfigError, RunError
from lab.core.runs import tracker_sink, trackers
from lab.core.runs.checked_lines import encode
from lab.core.runs.record import Run
from lab.core.runs.sinks import new_sink, refuse_unknown
from lab.core.runs.track import Points, Reader, follow, fresh_folder
from lab.core.runs.tracker_sink import TrackerSink

ROWS: list[dict[str, Any]] = [
    {"unit": "stage_1", "kind": "validation", "step": 0, "loss": 3.0},
    *({"unit": "stage_1", "kind": "train", "step": step, "loss": 2.0 / step, "tokens": 5} for step in (1, 2, 3)),
    {"unit": "stage_1", "kind": "accuracy", "model": "student", "question": "shape", "right": 3, "accuracy": 0.75},
    {"unit": "stage_2", "kind": "train", "step": 1, "loss": float("nan"), "tokens": 7},
    {"unit": "stage_1", "kind": "done", "num_rows": 5},
]
CURVES = {
    "stage_1/validation/loss": [(0, 3.0)],
    "stage_1/loss": [(1, 2.0), (2, 1.0), (3, 2.0 / 3)],
    "stage_1/tokens": [(1, 5.0), (2, 5.0), (3, 5.0)],
    "stage_1/accuracy/student/shape/right": [(0, 3.0)],
    "stage_1/accuracy/student/shape/accuracy": [(0, 0.75)],
    "stage_2/tokens": [(1, 7.0)],
    "stage_1/done/num_rows": [(0, 5.0)],
}


def run_of(folder: Path, *names: str) -> Run:
    return Run(folder, {"seed": 0, "stage_1": {"steps": 3}}, [], {}, b"", names)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    with run_of(tmp_path / "run") as run:
        run.log(ROWS)
    return tmp_path / "run"


class Kept:
    """Stores what it receives."""

    def __init__(self) -> None:
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.config: Mapping[str, object] = {}
        self.is_closed = False

    def open(self, run: Path, config: Mapping[str, object]) -> None:
        self.config = config

    def log(self, values: Mapping[str, float], step: int, unit: str) -> None:
        for name, value in values.items():
            self.curves.setdefault(name, []).append((step, value))

    def close(self) -> None:
        self.is_closed = True


def test_a_tracker_gets_every_finite_number_by_name_and_step(finished: Path) -> None:
    kept = Kept()
    assert follow(finished, kept, has_ended=lambda: True).num_rows == len(ROWS)
    assert kept.curves == CURVES
    assert kept.config == {"seed": 0, "stage_1.steps": 3}
    assert kept.is_closed


def test_rows_that_a_run_repeats_are_left_out() -> None:
    points = Points()
    first = [points.of(row)[0] for row in ROWS[1:4]]
    assert all(first)
    assert [points.of(row)[0] for row in ROWS[1:4]] == [{}, {}, {}]
    assert points.of({**ROWS[3], "step": 4})[0]


def test_rows_that_list_samples_make_no_curves() -> None:
    row = {"unit": "stage_1", "kind": "bad_sample", "step": 2, "file": "/a/b.jsonl", "line": 7, "error": "no picture"}
    assert Points().of(row)[0] == {}


def test_rows_of_an_evaluation_make_a_curve_for_each_model_and_task() -> None:
    sample = {"model": "student", "task": "pope.tsv", "category": "a", "split": "b", "stopped_at": "end of turn"}
    rows = [
        {"kind": "model", "model": "student", "role": "model", "digest": "0f", "backends": "ssd: x", "num_layers": 4},
        {"kind": "task", "task": "pope.tsv", "digest": "1e", "num_samples": 3},
        *({"kind": "answer", **sample, "index": str(n), "prediction": f"it is {n}", "hit": 1.0} for n in range(3)),
        {"kind": "choice", **sample, "index": "3", "hit": 0.0},
        {"kind": "choice", "curve": "a", "how": "corr_gcv", "risk": 0.5},
        {"kind": "left_out", "split": "train", "reason": "too long", "count": 2},
    ]
    points = Points()
    drawn = [(name, step) for values, step, _ in map(points.of, rows) for name in values]
    assert drawn == [
        ("model/student/num_layers", 0),
        ("task/pope.tsv/num_samples", 0),
        *(("answer/student/pope.tsv/hit", step) for step in range(3)),
        ("choice/student/pope.tsv/hit", 0),
        ("choice/a/corr_gcv/risk", 0),
        ("left_out/train/too long/count", 0),
    ]


def test_a_full_disk_is_an_error_of_the_tracker_and_not_of_a_thread(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    module = importlib.import_module("lab.core.runs.trackers.tensorboard")
    monkeypatch.setattr(module, "event_file", lambda folder: Path("/dev/full").open("wb"))  # noqa: SIM115
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        follow(finished, module.Tracker(), has_ended=lambda: True)
    assert threading.active_count() == before


@pytest.mark.parametrize("there", ["a file", "a link"])
def test_a_folder_that_cannot_be_replaced_is_named_with_the_reason(tmp_path: Path, there: str) -> None:
    if there == "a file":
        (tmp_path / "csv").write_text("")
    else:
        (tmp_path / "csv").symlink_to(tmp_path)
    with pytest.raises(RunError, match=f"{tmp_path / 'csv'} cannot be written: (a part of the path is a file|Cannot)"):
        fresh_folder(tmp_path, "csv")


def test_a_file_is_read_as_it_grows_and_again_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"a": number} for number in range(5)]
    first, second, third, fourth, fifth = encode(rows, 0)[0].splitlines(keepends=True)
    reader, points = Reader(path), Points()
    assert list(reader.new()) == []
    path.write_bytes(first + second[:-3])
    assert list(reader.new()) == rows[:1]
    assert list(reader.new()) == []
    path.write_bytes(first + second + third.replace(b"2", b"7", 1) + b"no json\n")
    assert list(reader.new()) == rows[1:2]
    assert (reader.num_rows, reader.num_damaged) == (2, 2)
    path.write_bytes(first + second + third + fourth)
    reader = Reader(path)
    drawn = [points.of(row) for row in reader.new(points.begin_again)]
    assert [step for _, step, _ in drawn] == [0, 1, 2, 3]
    other = tmp_path / "other"
    other.write_bytes(first + second + third + fourth + fifth)
    other.replace(path)
    # the same rows have the same steps, and only the new one is drawn
    drawn = [points.of(row) for row in reader.new(points.begin_again)]
    assert [(values, step) for values, step, _ in drawn if values] == [({"a": 4.0}, 4)]
    assert (reader.num_rows, reader.num_damaged) == (5, 0)


def test_a_damaged_configuration_is_refused(finished: Path) -> None:
    path = finished / "config.json"
    path.write_text(path.read_text().replace("3", "4"))
    with pytest.raises(RunError, match=r"config\.json"):
        follow(finished, Kept(), has_ended=lambda: True)


def test_a_log_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tensorboard.log")
    with pytest.raises(RunError, match="a pipe"):
        TrackerSink("tensorboard").open(tmp_path)


@pytest.mark.slow
def test_the_process_takes_no_module_of_the_working_folder_and_no_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("lab", "tensorboard"):
        (elsewhere / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(elsewhere)
    with run_of(tmp_path / "run", "tensorboard") as run:
        run.log(ROWS[:1])
        (sink,) = (run._sinks._open or {}).values()
        assert isinstance(sink, TrackerSink)
        # as a cluster does, to all processes of a job
        os.kill(sink._process.pid, signal.SIGTERM)
        run.log(ROWS[1:])
    assert tensorboard_curves(tmp_path / "run").keys() == CURVES.keys()


@pytest.mark.slow
def test_mlflow_sends_nothing_to_its_makers() -> None:
    pytest.importorskip("mlflow")
    program = (
        "from lab.core.runs.trackers import new_tracker; new_tracker('mlflow');"
        "from mlflow.telemetry.client import get_telemetry_client; print(get_telemetry_client())"
    )
    # it is silent in tests
    seen = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    environment = {key: value for key, value in os.environ.items() if key not in seen}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_a_tracker_that_is_not_installed_is_refused_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="sinks=wandb: wandb is not installed; pip install wandb"):
        refuse_unknown(["wandb"])
    assert isinstance(new_sink("wandb"), TrackerSink)


def test_the_end_of_a_run_is_recorded_before_trackers_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    with run_of(tmp_path) as run:
        run.log(ROWS)
        monkeypatch.setattr(
            run._sinks, "close", lambda: seen.append(json.loads((tmp_path / "status.json").read_text())["status"])
        )
    assert seen == ["finished"]


def tensorboard_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """Records of a log of LevelDB, the form of W&B's files, whose own reader is a program: blocks of 32 KiB, in which
    parts begin with a checksum, their length, and whether they are whole (1), first (2), between (3) or last (4)."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32_768 - place % 32_768 < 7:
            place += 32_768 - place % 32_768
        length, part = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):
            yield record
            record = b""


def wandb_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    curves: dict[str, list[tuple[int, float]]] = {}
    for content in leveldb_records(path.read_bytes()):
        record = proto.Record()
        record.ParseFromString(content)
        values = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
        step = next((int(json.loads(value)) for key, value in values.items() if key.endswith("/step")), None)
        for key, value in values.items():
            if not key.startswith("_") and not key.endswith("/step"):
                assert step is not None
                curves.setdefault(key, []).append((step, float(json.loads(value))))
    return curves


READERS = {"tensorboard": tensorboard_curves, "wandb": wandb_curves}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_its_own_reader_finds_what_a_run_has_recorded(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    with run_of(tmp_path / "run", name) as run:
        run.log(ROWS[:3])
    # what it had is replaced when the run goes on
    with run_of(tmp_path / "run", name) as run:
        run.log(ROWS[3:])
    found = READERS[name](tmp_path / "run")
    assert found.keys() == CURVES.keys()
    for tag, points in CURVES.items():
        assert found[tag] == [(step, pytest.approx(value)) for step, value in points]


@pytest.mark.slow
def test_a_tracker_that_is_killed_is_said_once_and_the_run_is_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    with run_of(tmp_path / "killed", "tensorboard") as run:
        run.log(ROWS[:1])
        (sink,) = (run._sinks._open or {}).values()
        assert isinstance(sink, TrackerSink)
        os.kill(sink._process.pid, signal.SIGKILL)
        sink._process.wait()
        run.log(ROWS[1:4])
        run.log(ROWS[4:])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "tensorboard: RunError: its process ended with exit code -9" in said[0]
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert json.loads((tmp_path / "killed" / "status.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_tracker_that_hangs_holds_a_run_up_for_a_moment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(tracker_sink, "_PATIENCE_S", 0.2)
    with run_of(tmp_path, "tensorboard") as run:
        run.log(ROWS[:1])
        (sink,) = (run._sinks._open or {}).values()
        assert isinstance(sink, TrackerSink)
        os.kill(sink._process.pid, signal.SIGSTOP)
        run.log(ROWS[1:])
    os.kill(sink._process.pid, signal.SIGKILL)
    sink._process.wait()
    assert "has not ended" in capsys.readouterr().err
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "finished"
