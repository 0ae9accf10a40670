"""What every sink in core/runs/sinks promises, and that no sink can stop a run; a new file is tested by being there."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import ConfigError
from lab.core.runs import sink as passing
from lab.core.runs.record import INDIFFERENT_KEYS, Run
from lab.core.runs.sinks import new_sink, refuse_unknown, sink_names
from lab.core.runs.sums import SUMS
from lab.core.runs.trackers import tracker_names

# trackers are in test_trackers.py
NAMES = sorted({*sink_names()} - {*tracker_names()})
ROWS: list[dict[str, Any]] = [
    {"kind": "theory", "width": 4, "risk": float("inf"), "label": 'ä, "1"'},
    {"kind": "measured", "width": 4, "risk": None, "label": ""},
    {"kind": "measured", "width": 5, "risk": float("nan"), "more": True},
    {"step": 3},
]


def run_of(folder: Path, *names: str, **config: Any) -> Run:
    return Run(folder, {"seed": 0, **config}, [], {}, b"", names)


def files(folder: Path) -> dict[str, bytes]:
    """What sinks have written: all but the files of the run itself."""
    own = {".lock", "metrics.jsonl", "config.json", "overrides.json", "provenance.json", "status.json", SUMS}
    every = (path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


@pytest.mark.parametrize("name", NAMES)
def test_a_sink_takes_any_rows_and_writes_inside_the_run(name: str, tmp_path: Path) -> None:
    with run_of(tmp_path / "run", name) as run:
        run.log(ROWS[:1])
        run.log(ROWS[1:])
    assert files(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_goes_on_leaves_what_one_that_was_not_cut_off_leaves(name: str, tmp_path: Path) -> None:
    with run_of(tmp_path / "whole", name) as run:
        run.log(ROWS)
    with run_of(tmp_path / "cut", name) as run:
        run.log(ROWS[:3])
    with run_of(tmp_path / "cut", name) as run:
        # the third row belonged to work that was cut short
        run.keep(lambda row: row in ROWS[:2])
        run.log(ROWS[2:])
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("name", NAMES)
def test_a_sink_may_be_chosen_for_a_run_that_was_begun_without_it(name: str, tmp_path: Path) -> None:
    assert {"sinks", "workers", "threads"} <= INDIFFERENT_KEYS
    with run_of(tmp_path / "late", sinks=[], workers=1) as run:
        run.log(ROWS[:2])
    with run_of(tmp_path / "late", name, sinks=[name], workers=2) as run:
        run.log(ROWS[2:])
    with run_of(tmp_path / "whole", name) as run:
        run.log(ROWS)
    assert files(tmp_path / "late") == files(tmp_path / "whole")


@pytest.mark.parametrize("name", NAMES)
def test_a_sink_may_be_chosen_for_a_run_with_nothing_left_to_compute(name: str, tmp_path: Path) -> None:
    with run_of(tmp_path / "late") as run:
        run.log(ROWS)
    with run_of(tmp_path / "late", name):
        pass
    with run_of(tmp_path / "whole", name) as run:
        run.log(ROWS)
    assert files(tmp_path / "late") == files(tmp_path / "whole")


class Failing:
    def __init__(self, where: str) -> None:
        self.where = where

    def open(self, run: Path) -> None:
        self.fail("open")

    def row(self, row: Any) -> None:
        self.fail("row")

    def close(self) -> None:
        self.fail("close")

    def fail(self, place: str) -> None:
        if place == self.where:
            raise OSError(f"no {place}")


@pytest.mark.parametrize("where", ["open", "row", "close"])
def test_a_failing_sink_is_said_once_and_never_stops_a_run(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(passing, "new_sink", lambda name: Failing(where) if name == "bad" else new_sink(name))
    with run_of(tmp_path, "bad", NAMES[0]) as run:
        run.log(ROWS[:2])
        run.log(ROWS[2:])
    # standard output is for scripts
    assert capsys.readouterr() == ("", f"lab: sink bad: OSError: no {where}; it gets no more rows\n")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(ROWS)
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "finished"
    assert files(tmp_path)


def test_names_that_no_sink_has_are_refused() -> None:
    refuse_unknown(NAMES)
    with pytest.raises(ConfigError, match=r"sinks=pigeon: there is no such sink; choose from .*csv"):
        refuse_unknown(["pigeon"])
    with pytest.raises(ConfigError, match="give each sink once"):
        refuse_unknown(["csv", "csv"])


def test_csv_have_a_header_and_empty_fields_where_a_row_lacks_a_column(tmp_path: Path) -> None:
    with run_of(tmp_path, "csv") as run:
        run.log(ROWS)
    assert sorted(path.name for path in (tmp_path / "csv").iterdir()) == ["measured.csv", "rows.csv", "theory.csv"]
    rows = list(csv.DictReader((tmp_path / "csv" / "measured.csv").read_text().splitlines()))
    assert [(row["width"], row["more"]) for row in rows] == [("4", ""), ("5", "True")]


def test_csv_keeps_line_breaks_when_a_column_is_added(tmp_path: Path) -> None:
    answer = "one\ntwo\r\nthree\u2028four\x0cfive"
    with run_of(tmp_path, "csv") as run:
        run.log([{"kind": "answer", "text": answer, "place": 1}, {"kind": "answer", "place": 2, "more": 3}])
    with (tmp_path / "csv" / "answer.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["place"], row["more"]) for row in rows] == [(answer, "1", ""), ("", "2", "3")]
