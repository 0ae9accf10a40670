"""`lab plot` and `lab compare`: figures and differences of recorded runs, read from their tables."""

import csv
import io
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.core.runs.find import find_run
from lab.core.runs.sums import SUMS
from lab.experiments.hmm_risk.results import recorded as study
from reference.parquet import read_table

Typed = Callable[..., Any]


def test_no_study_loads_torch_to_draw_what_is_recorded() -> None:
    program = """
import importlib, sys
from lab.cli.main import found_experiments
names = [each.recorded.partition(":")[0] for each in found_experiments()]
for name in names:
    importlib.import_module(name)
print(len(names) >= 4, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def refused(said: Any, *words: str) -> None:
    """One line that names what is wrong, exit code 2."""
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert [word for word in ("lab: ", *words) if word not in said.err] == []


@pytest.fixture
def two(recorded: Path) -> tuple[Path, Path]:
    """Two points of a sweep: the same numbers under other overrides and another noise."""
    sweep = recorded.parents[1] / "sweeps" / "20260101-000000-000000"
    for number, noise in (("0", 0.5), ("1", 0.9)):
        shutil.copytree(recorded, sweep / number)
        overrides = json.loads((recorded / "overrides.json").read_text())
        (sweep / number / "overrides.json").write_text(
            json.dumps([*[word for word in overrides if "noise" not in word], f"observation_noise={noise}"])
        )
        config = json.loads((recorded / "config.json").read_text())
        (sweep / number / "config.json").write_text(json.dumps(config | {"observation_noise": noise}))
        (sweep / number / SUMS).unlink()
    return sweep / "0", sweep / "1"


def test_a_figure_is_drawn_again_with_its_numbers_and_caption(typed: Typed, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper" / "figures"
    done = typed("plot", recorded.name, "--format", "svg", "--out", str(out))
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        f"excess_risk.{suffix}" for suffix in ("parquet", "svg", "tex", "txt")
    ]
    assert f"figure: {out / 'excess_risk.svg'}" in done.out.splitlines()
    # NaN stands where there is no line
    plotted, before = (json.dumps(read_table(path / "excess_risk.parquet")) for path in (out, recorded / "figures"))
    assert plotted == before
    caption = (out / "excess_risk.txt").read_text()
    assert caption == (recorded / "figures" / "excess_risk.txt").read_text()
    assert [
        word for word in ("Dots: means", "one standard error", "n = 20", "2 draws", "seed 0") if word not in caption
    ] == []


def test_labels_limits_and_titles_are_in_the_figure(typed: Typed, recorded: Path, tmp_path: Path) -> None:
    (label,) = {row["curve"] for row in read_table(recorded / "figures" / "excess_risk.parquet")}
    words = (
        "--label",
        f"{label}=>a & b",
        "--title",
        "A title",
        "--xlim",
        "0.5,3",
        "--yscale",
        "linear",
        "--ylim",
        "0,2",
    )
    done = typed("plot", str(recorded), *words, "--format", "svg", "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    text = (tmp_path / "excess_risk.svg").read_text()
    assert ("A title" in text, "a &amp; b" in text) == (True, True)
    assert {row["curve"] for row in read_table(tmp_path / "excess_risk.parquet")} == {"a & b"}


def test_points_of_a_sweep_are_curves_named_after_their_overrides(
    typed: Typed, two: tuple[Path, Path], tmp_path: Path
) -> None:
    done = typed("plot", two[0].parent.name, "--format", "png", "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    curves = {row["curve"] for row in read_table(tmp_path / "excess_risk.parquet")}
    assert curves == {"observation_noise=0.5", "observation_noise=0.9"}
    words = ("--curves", "observation_noise=0.9", "--format", "png", "--out", str(tmp_path))
    assert typed("plot", str(two[0]), str(two[1]), *words).code == 0
    assert {row["curve"] for row in read_table(tmp_path / "excess_risk.parquet")} == {"observation_noise=0.9"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--figure", "exces_risk"), "did you mean excess_risk?"),
        (("--figure", "downstream"), "accuracy"),
        (("--curves", "SNR 7"), "there is no such curve"),
        (("--label", "SNR 7=>b"), "there is no such curve"),
        (("--label", "SNR 7"), "=>"),
        (("--label", r"measured=>$\foo$"), "no formula"),
        (("--title", r"a $\foo$ b"), "no formula"),
        (("--xlim", "0,5"), "--xlim 0,5: the x axis is logarithmic; give numbers above 0, or --xscale linear"),
        (("--ylim", "0.001,1e299"), "give numbers from -1e+200 to 1e+200"),
        (("--xlim", "2,1"), "--xlim 2,1"),
        (("--ylim", "1"), "--ylim 1"),
        (("--yscale", "cubic"), "log or linear"),
        (("--format", "gif"), "pdf, png, svg"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    words: tuple[str, ...], said: str, typed: Typed, recorded: Path, tmp_path: Path
) -> None:
    refused(typed("plot", recorded.name, *words, "--out", str(tmp_path / "out")), said)
    assert not (tmp_path / "out").exists()


def test_what_matplotlib_warns_of_is_said_in_a_line(
    typed: Typed, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "set_axes", lambda figure, request: warnings.warn("no such letter", stacklevel=1))
    done = typed("plot", recorded.name, "--format", "png", "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "lab: figure excess_risk: no such letter\n")


def test_runs_that_are_missing_damaged_or_of_another_study_are_refused(
    typed: Typed, recorded: Path, tmp_path: Path
) -> None:
    refused(typed("plot", recorded.name[:-1] + "x"), "did you mean", recorded.name)
    other = tmp_path / "other"
    shutil.copytree(recorded, other)
    (other / "config.json").write_text(json.dumps({"teacher": {}}))
    (other / SUMS).unlink()
    refused(typed("plot", str(recorded), str(other)), "runs of one study")
    (recorded / "table.parquet").write_bytes(b"PAR1")
    refused(typed("plot", str(recorded), "--out", str(tmp_path / "out")), "table.parquet is damaged")


def test_runs_are_compared(typed: Typed, two: tuple[Path, Path]) -> None:
    sweep = two[0].parent.name
    done = typed("compare", sweep)
    assert (done.code, done.err) == (0, "")
    assert "observation_noise  0.5  0.9" in done.out
    rows = list(csv.DictReader(io.StringIO(typed("compare", sweep, "--csv").out)))
    table = read_table(two[0] / "figures" / "excess_risk.parquet")
    found = {row["point"]: row for row in rows if row["quantity"] == "excess_risk"}
    for row in table:
        compared = found[f"p = {row['width']:.0f}"]
        assert float(compared["first"]) in (row["mean"], row["median"])
        assert float(compared["difference"]) == 0
    content = json.loads(typed("compare", sweep, "--json").out)
    assert content["config"] == [{"key": "observation_noise", "values": [0.5, 0.9]}]
    assert len(content["results"]) == len(rows)
    refused(typed("compare", str(two[0])), "two or more")
    refused(typed("compare", sweep, "--quantity", "risk"), "excess_risk")


def test_every_name_that_is_listed_is_accepted(typed: Typed, two: tuple[Path, Path]) -> None:
    names = [run["run"] for run in json.loads(typed("runs", "--json").out)]
    assert len(names) == 3
    for name in names:
        assert find_run(name).is_dir()
        assert find_run(name.partition("/")[2]) == find_run(name)
    # as in a terminal of 80 columns, one line for each
    assert max(map(len, typed("runs").out.splitlines())) <= 240


def test_a_point_that_waits_does_not_hide_the_others(typed: Typed, two: tuple[Path, Path], tmp_path: Path) -> None:
    sweep = two[0].parent
    (sweep / "2").mkdir()
    (sweep / "2" / "status.json").write_text(json.dumps({"schema_version": 4, "status": "waiting"}))
    said = f"lab: 1 of 3 points have no table yet, and are left out: {sweep.name}/2\n"
    for words in (
        *(("show", *flags) for flags in ((), ("--json",), ("--csv",), ("--csv", "--summary"))),
        ("plot", "--out", str(tmp_path / "figures")),
        ("compare", "--csv"),
    ):
        done = typed(words[0], str(sweep), *words[1:])
        assert (done.code, done.err) == (0, said), words
    shutil.rmtree(sweep / "2")
    (two[1] / "table.parquet").unlink()
    # not left out: it was there
    refused(typed("show", str(sweep), "--csv"), "table.parquet", f"resume={sweep.name}/1")
    for point in two:
        (point / "status.json").write_text(json.dumps({"schema_version": 4, "status": "interrupted"}))
        for name in ("table.parquet", "summary.json"):
            (point / name).unlink(missing_ok=True)
    refused(typed("show", str(sweep)), "no point has a table yet")
