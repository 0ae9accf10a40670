"""`lab runs` and `lab show`: what was recorded is listed and shown, and what is damaged is said to be."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.cli import run_data
from lab.cli.main import found_experiments, runs, show
from lab.cli.resume import resumed
from lab.cli.run_data import print_csv
from lab.core.errors import RunError
from lab.core.runs.sums import SUMS
from lab.core.streams import SteadyStream, printed
from lab.experiments.spec import function_of
from reference.parquet import read_table

Typed = Callable[..., Any]


def check_line(code: int, said: str, *words: str) -> None:
    """One line that names what is wrong, and exit code 2."""
    assert (code, said.count("\n")) == (2, 1), said
    assert [word for word in ("lab: ", *words) if word not in said] == []


def test_runs_are_listed(typed: Typed, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recorded.parent / "20200101-000000-000000").mkdir()
    (recorded.parent / "20200101-000000-000000" / "status.json").write_text("{torn")
    monkeypatch.setenv("COLUMNS", "200")
    done = typed("runs")
    assert done.code == 0, done.err
    newest, oldest = (line for line in done.out.splitlines() if "hmm_risk/runs" in line)
    assert recorded.name in newest
    assert "finished" in newest
    assert "unreadable" in oldest
    assert typed("runs", "--study", "hmm_risk", "--limit", "1").out.count("hmm_risk/runs/") == 1


@pytest.mark.parametrize(
    ("study", "words"),
    [("/tmp", "choose from"), ("..", "choose from"), ("hmm_risk/runs", ""), ("hmmrisk", "did you mean hmm_risk?")],
)
def test_a_study_that_does_not_exist_is_refused(typed: Typed, recorded: Path, study: str, words: str) -> None:
    for more in ((), ("--json",)):
        done = typed("runs", "--study", study, *more)
        check_line(done.code, done.err, f"--study {study}: there is no such study", words)


def test_a_study_is_named_by_its_folder_or_command_and_may_have_no_runs(typed: Typed, recorded: Path) -> None:
    for study in ("hmm_risk", "hmm-risk"):
        assert recorded.name in typed("runs", "--study", study).out
    assert typed("runs", "--study", "probe").out.startswith("no runs of probe under ")


def test_a_table_that_cannot_be_printed_is_said_to_be_and_one_that_is_read_in_part_is_not(recorded: Path) -> None:
    class Broken(io.StringIO):
        def __init__(self, error: OSError) -> None:
            super().__init__()
            self.error = error

        def write(self, text: str) -> int:
            raise self.error

    for stream, refusal in (
        (None, "it is closed"),
        (Broken(OSError(errno.ENOSPC, "No space left on device")), "No space left on device"),
        (Broken(BrokenPipeError()), None),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", SteadyStream(stream))
            if refusal is None:
                show(str(recorded), as_csv=True)
                continue
            with pytest.raises(RunError, match=f"standard output cannot be written: {refusal}"), printed():
                print_csv(str(recorded))


def test_a_table_is_printed_whole_in_parts(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_csv(str(recorded))
    whole = capsys.readouterr().out
    monkeypatch.setattr(run_data, "_AT_ONCE", 2)
    print_csv(str(recorded))
    assert capsys.readouterr().out == whole
    assert len(list(csv.DictReader(io.StringIO(whole)))) == len(read_table(recorded / "table.parquet"))


def test_an_empty_output_folder_has_no_runs(typed: Typed, outputs: Path) -> None:
    done = typed("runs")
    assert (done.code, done.out.startswith("no runs under")) == (0, True)


def test_a_run_is_shown_as_it_ended(typed: Typed, recorded: Path, finished_run: tuple[Path, str]) -> None:
    done = typed("show", recorded.name[-6:])
    assert done.code == 0, done.err
    table = finished_run[1].partition("figure:")[0]
    assert done.out.startswith(table)
    assert str(recorded / "figures" / "excess_risk.png") in done.out
    assert str(recorded / "table.parquet") in done.out


@pytest.mark.parametrize("words", ["show", "show --csv", "show --csv --summary", "show --json", "plot", "compare"])
def test_a_table_of_a_run_that_is_not_finished_is_said_to_be_of_before(
    typed: Typed, recorded: Path, tmp_path: Path, words: str
) -> None:
    command, *flags = words.split()
    more = [str(recorded)] if command == "compare" else ["--out", str(tmp_path)] if command == "plot" else []
    copy = shutil.copytree(recorded, recorded.parent / "copy")
    names = [str(copy), *more, *flags]
    assert "earlier attempt" not in typed(command, *names).err
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps(status | {"status": "interrupted"}))
    (copy / SUMS).unlink()
    done = typed(command, *names)
    line = "lab: copy is interrupted, and its table may be of an earlier attempt; resume=copy goes on with it\n"
    assert (done.code, done.err) == (0, line)


def test_the_summary_is_printed_as_numbers_in_full_precision(recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    show(str(recorded), as_csv=True, summarised=True)
    lines = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    summary = json.loads((recorded / "summary.json").read_text(), parse_constant=pytest.fail)
    assert list(lines[0]) == summary["columns"]
    for line, row in zip(lines, summary["rows"], strict=True):
        assert list(line.values()) == ["" if entry is None else str(entry) for entry in row]
        assert float(line["excess"]) == row[summary["columns"].index("excess")]
    show(str(recorded), as_json=True)
    content = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)
    assert [list(line.values()) for line in content["summary"]] == summary["rows"]


@pytest.mark.parametrize("name", ["status.json", "summary.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"columns": 3}', b"\xff\x00"])
def test_a_damaged_run_is_listed_and_refused(
    name: str, content: bytes, recorded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (recorded / name).write_bytes(content)
    runs(study="", limit=20, as_json=False)
    assert recorded.name in capfd.readouterr().out
    if name == "summary.json" or not content.startswith(b'{"'):
        with pytest.raises(SystemExit) as left:
            show(str(recorded))
        check_line(int(str(left.value.code)), capfd.readouterr().err, str(recorded))


def test_what_a_terminal_would_obey_is_written_as_an_escape(
    typed: Typed, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    evil = "\x1b]0;title\x07[/] :bomb: \u202e"
    for name, changes in {
        "status.json": {"title": evil, "headline": evil},
        "summary.json": {"columns": ["", evil], "rows": [[evil, evil]], "verdict": [evil]},
    }.items():
        content = json.loads((recorded / name).read_text())
        (recorded / name).write_text(json.dumps(content | changes))
    (recorded / SUMS).unlink()
    for words in (("runs",), ("show", recorded.name), ("hmm-risk", "sweep", f"{evil}=3")):
        done = typed(*words)
        said = done.out + done.err
        assert [character for character in "\x1b\x07\u202e" if character in said] == []
        assert r"\x1b]0;title\x07" in said


def test_the_end_of_two_names_is_refused_and_what_is_listed_is_not(typed: Typed, recorded: Path) -> None:
    other = recorded.parent / f"0{recorded.name}"
    subprocess.run(["cp", "-a", str(recorded), str(other)], check=True)
    done = typed("show", recorded.name[-6:])
    check_line(done.code, done.err, recorded.name[-6:], "2 runs")
    for name in (recorded.name, f"hmm_risk/runs/{recorded.name}", f"runs/{recorded.name}"):
        assert typed("show", name).code == 0


def test_a_run_with_files_of_a_tracker_is_resumed(recorded: Path) -> None:
    (recorded / "tensorboard").mkdir()
    (recorded / "tensorboard" / "config.json").write_text('{"hmm.state_dim": null}')
    spec = next(spec for spec in found_experiments() if spec.config == "hmm_risk")
    function_of(spec.register)()
    assert str(recorded) in resumed([f"resume={recorded.name}"], study=spec)[-1]


@pytest.mark.parametrize(
    "words", ["show --csv", "show --json", "plot --out out", "report -o out.html", "report . -o out"]
)
def test_a_run_in_a_folder_whose_name_is_no_text_is_read(
    typed: Typed, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    place = recorded.rename(os.fsdecode(os.fsencode(recorded.parent) + b"/\xff"))
    monkeypatch.chdir(tmp_path)
    command, *more = words.split()
    done = typed(command, *([] if "." in more else [str(place)]), *more)
    assert (done.code, done.err) == (0, "")


def test_showing_what_is_no_run_is_refused(typed: Typed, tmp_path: Path) -> None:
    for name in ("nothing", str(tmp_path)):
        done = typed("show", name)
        check_line(done.code, done.err, name, "lab runs")


def test_runs_are_listed_for_programs(typed: Typed, recorded: Path) -> None:
    (run,) = json.loads(typed("runs", "--json").out)
    assert run["run"] == f"hmm_risk/runs/{recorded.name}"
    assert (run["status"], run["directory"]) == ("finished", str(recorded))
    # in a narrow terminal every run still has one line
    assert typed("runs").out.count("\n") == 2


def strict(text: str) -> Any:
    """JSON as other languages read it."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def test_a_run_is_shown_for_programs_in_full_precision(typed: Typed, recorded: Path) -> None:
    table = read_table(recorded / "table.parquet")
    shown = strict(typed("show", recorded.name, "--json").out)
    assert shown["config"] == json.loads((recorded / "config.json").read_text())
    expected = [{key: None if value != value else value for key, value in row.items()} for row in table]
    assert [row for row in table if row["theory_exact"] == float("inf")] == []
    assert shown["table"] == expected
    rows = list(csv.DictReader(io.StringIO(typed("show", recorded.name, "--csv").out)))
    assert [float(row["excess_risk"]) for row in rows] == [row["excess_risk"] for row in table]
    done = typed("show", recorded.name, "--csv", "--json")
    check_line(done.code, done.err, "--json and --csv")


def test_a_sweep_is_shown_point_by_point(typed: Typed, outputs: Path, recorded: Path) -> None:
    sweep = outputs / "hmm_risk" / "sweeps" / "two"
    points = ["0", "2", "10"]
    for point in points:
        shutil.copytree(recorded, sweep / point)
    rows = list(csv.DictReader(io.StringIO(typed("show", "two", "--csv").out)))
    assert [row["point"] for row in rows] == [point for point in points for _ in range(len(rows) // len(points))]
    assert [Path(run["run"]).name for run in strict(typed("show", "two", "--json").out)] == points
    last_lines = [line for line in typed("show", "two").out.splitlines() if line.startswith(str(sweep))]
    assert [Path(line).name for line in last_lines] == points


@pytest.mark.parametrize("form", ["--json", "--csv"])
@pytest.mark.parametrize("content", [None, b"", b"PAR1PAR1"])
def test_a_table_that_is_missing_or_damaged_is_one_line(
    form: str, content: bytes | None, typed: Typed, recorded: Path
) -> None:
    path = recorded / "table.parquet"
    path.unlink() if content is None else path.write_bytes(content)
    done = typed("show", recorded.name, form)
    check_line(done.code, done.err, f"resume={recorded.name}")
    assert done.out == ""


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_names_are_whole_and_lines_fit_in_a_terminal(
    width: int, recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    status = json.loads((recorded / "status.json").read_text())
    (recorded / "status.json").write_text(json.dumps(status | {"title": "a title " * 20, "headline": "a result " * 20}))
    (recorded / SUMS).unlink()
    runs(study="", limit=20, as_json=False)
    line = capsys.readouterr().out.splitlines()[1]
    assert f"hmm_risk/runs/{recorded.name}" in line
    assert len(line) <= max(width, len(f"hmm_risk/runs/{recorded.name}  finished  99 min  "))
    assert ("a title" in line, "a result" in line) == (width > 120, width >= 80)
