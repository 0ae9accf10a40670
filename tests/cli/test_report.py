"""`lab report`: runs of both studies become one page, whatever is missing of them."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from html_checks import faults, parsed
from lab.cli.report import _again
from lab.experiments.hmm_risk import SPEC

Typed = Callable[..., Any]
ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "outputs" / "reference"


def texts(path: Path) -> str:
    return " ".join(" ".join(parsed(path.read_text()).text).split())


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check_refused(done: Any, says: str) -> None:
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err


def test_a_sweep_and_a_distillation_on_one_page(typed: Typed, recorded: Path, distilled: Any) -> None:
    done = typed("report", recorded.name, str(distilled.root / "distill/runs/several"), "-o", "page.html")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("page.html: 2 runs, ")
    page = Path("page.html")
    assert faults(page.read_text()) == []
    text = texts(page)
    for words in (
        "Measure the risk of head tuning as a function of model size",
        "Excess risk is highest where there are as many features as rows (p = n)",
        "Random-matrix theory is within 5 % outside gamma 0.8 to 1.25",
        "A student predicts like its teacher",
        "Error of each layer after each stage",
        "Loss by step and stage",
        "lab hmm-risk sweep num_train=20 'widths=[4,10,40]'",
        "lab distill stage=all 'stages=[1]' replicates=2",
        "\\begin{tabular}",
        "seeds seed 0",
    ):
        assert words in text, words
    # an earlier report is replaced
    assert typed("report", str(recorded), "-o", "page.html").code == 0
    assert "distillation" not in texts(page)


def test_bad_names_and_places_are_one_line(typed: Typed, recorded: Path, outputs: Path) -> None:
    check_refused(typed("report", "no_such_run"), "there is no run no_such_run")
    Path("empty").mkdir()
    check_refused(typed("report", "empty"), "empty holds no run")
    Path("mine.html").write_text("<html>")
    check_refused(typed("report", str(recorded), "-o", "mine.html"), "mine.html is there and is not a report of lab")
    check_refused(typed("report", str(recorded), "-o", str(outputs)), "is a folder")
    check_refused(typed("report", str(recorded), "-o", "gone/page.html"), "gone")
    assert Path("mine.html").read_text() == "<html>"
    assert sorted(path.name for path in Path().iterdir() if path != Path(outputs.name)) == ["empty", "mine.html"]


@pytest.mark.parametrize("name", ["config.json", "summary.json", "table.parquet", "status.json"])
def test_a_run_that_is_not_whole_is_in_the_report(typed: Typed, recorded: Path, name: str) -> None:
    (recorded / name).write_bytes(b"{torn")
    done = typed("report", str(recorded))
    assert done.code == 0, done.err
    assert faults(Path("report.html").read_text()) == []
    if name != "table.parquet":
        assert name in texts(Path("report.html"))


def test_a_distillation_without_its_table_is_in_the_report(typed: Typed, distilled: Any) -> None:
    run = Path(shutil.copytree(distilled.root / "distill/runs/first", "first"))
    for content in (b"PAR1 torn", None):
        (run / "table.parquet").unlink() if content is None else (run / "table.parquet").write_bytes(content)
        assert typed("report", "first").code == 0
        assert "table.parquet is" in texts(Path("report.html"))


def test_the_command_of_a_point_of_all_experiments_makes_that_point() -> None:
    words = ["+experiment/hmm_risk=f01_headline", "experiment=hmm_risk/all", "ridge=[0,optimal]"]
    assert _again(SPEC, words) == "lab hmm-risk sweep experiment=hmm_risk/f01_headline 'ridge=[0,optimal]'"
    assert _again(SPEC, words[2:]) == "lab hmm-risk sweep 'ridge=[0,optimal]'"


@pytest.mark.slow
def test_all_reference_runs_are_one_page_that_a_browser_shows(typed: Typed, tmp_path: Path) -> None:
    runs = sorted(path.parent for path in REFERENCE.glob("*/*/status.json"))
    done = typed("report", *map(str, runs), "-o", "all.html")
    assert (done.code, done.err) == (0, "")
    page = Path("all.html")
    assert len(runs) > 15
    # figures are drawn as paths, and a table of a thousand rows is one: more than this is something else
    assert page.stat().st_size < 150_000 * len(runs)
    assert faults(page.read_text()) == []
    assert "could be read" not in texts(page)
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no Chromium: apt-get install chromium")
    shots = Path(os.environ.get("LAB_TEST_ARTEFACTS", tmp_path))
    means = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        shot = shots / f"report-{scheme}.png"
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        words += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / scheme}"]
        words += [f"--blink-settings=preferredColorScheme={number}", "--window-size=1200,3600", f"--screenshot={shot}"]
        subprocess.run([browser, *words, page.resolve().as_uri()], check=True, capture_output=True, timeout=300)
        with Image.open(shot) as picture:
            grey = picture.convert("L")
            assert grey.size == (1200, 3600)
            means[scheme] = grey.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
            # text and figures stand out from the ground
            low, high = grey.getextrema()
            assert high - low > 150  # type: ignore[operator]
    assert means["dark"] < 60
    assert means["light"] > 200
