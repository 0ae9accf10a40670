"""Whole probes of files: the risk is that of held-out rows, theory is near, and a killed run ends like any other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lab.cli.main import app
from lab.core.errors import LabError
from lab.core.heads.linear_head import LinearHead
from lab.experiments.probe.results import Results

RNG = np.random.default_rng(5)
SCALES = np.geomspace(2, 0.3, 60)
FEATURES = RNG.standard_normal((3000, 60)) * SCALES
TARGETS = FEATURES @ RNG.standard_normal((60, 2)) / 6 + RNG.standard_normal((3000, 2))

Run = Callable[..., Path]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    np.savez(path := tmp_path / "rows.npz", features=FEATURES, targets=TARGETS)
    return path


@pytest.mark.slow
def test_the_theory_of_gaussian_rows_is_near_what_is_measured(
    probe: Run, results_of: Callable[[Path], Results], rows: Path
) -> None:
    results = results_of(probe(f"features={rows}", "draws=20", "figures=[risk_by_width,risk_by_ridge]"))
    assert len(results.points) == 9
    for point in results.points:
        chance = 4 * point.risks.std(ddof=1) / np.sqrt(20)
        # four standard errors; the Gaussian line is a limit, the elliptical one of this n
        assert abs(point.mean - point.lines["gaussian"]) < chance + 0.05 * point.mean
        assert abs(point.mean - point.lines["elliptical"]) < chance + 0.02 * point.mean


def test_the_measured_risk_is_that_of_the_rows_that_are_left_out(
    probe: Run, results_of: Callable[[Path], Results], rows: Path
) -> None:
    results = results_of(probe(f"features={rows}", "basis=as_given", "widths=[60]", "figures=[]"))
    null = float(np.mean(np.sum(TARGETS**2, axis=1)))
    # rows of the draws are not recorded: any draw of this size has about this risk
    expected = []
    for draw in range(12):
        order = np.random.default_rng(draw).permutation(3000)
        head = LinearHead.fit(FEATURES[order[:30]], TARGETS[order[:30]], ridge=1.0, rtol=1e-12)
        errors = TARGETS[order[30:]] - head.predict(FEATURES[order[30:]])
        expected.append(float(np.mean(np.sum(errors**2, axis=1))) / null)
    (point,) = (point for point in results.points if point.ridge == 1)
    spread = np.std(expected, ddof=1) * np.sqrt(1 / 12 + 1 / 3)
    assert abs(point.mean - np.mean(expected)) < 4 * spread


def test_classes_have_accuracy_and_log_loss_beside_the_constant_guess(
    probe: Run, results_of: Callable[[Path], Results], tmp_path: Path
) -> None:
    labels = (TARGETS[:, 0] > 0).astype(int)
    np.savez(path := tmp_path / "rows.npz", features=np.hstack([FEATURES, np.ones((3000, 1))]), labels=labels)
    folder = probe(f"features={path}", "figures=[]", "widths=[61]", "ridge=[0.3]", "num_train=[400]")
    results = results_of(folder)
    ((accuracy, log_loss),) = results.classes.values()
    assert 0.6 < accuracy < 0.95
    assert 0 < log_loss < results.curves[0]["guess_log_loss"]
    assert results.curves[0]["guess_accuracy"] == pytest.approx(max(labels.mean(), 1 - labels.mean()), abs=0.05)
    assert "constant guess" in (folder / "summary.json").read_text()


def test_targets_that_are_linear_in_the_features_leave_rounding_alone(
    probe: Run, results_of: Callable[[Path], Results], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(path := tmp_path / "rows.npz", features=FEATURES, targets=FEATURES[:, :2])
    folder = probe(f"features={path}", "num_train=[100]", "widths=[30,60]", "figures=[risk_by_width,causes]")
    point = next(point for point in results_of(folder).points if (point.width, point.ridge) == (60, 0))
    assert abs(point.mean) < 1e-12
    assert point.gap("gaussian") == 0
    assert "could not be drawn" not in capsys.readouterr().err


def test_a_run_that_was_cut_off_ends_with_the_same_table(probe: Run, rows: Path) -> None:
    words = (f"features={rows}", "figures=[]")
    whole, cut = probe(*words, name="whole"), probe(*words, name="cut")
    table = (whole / "table.parquet").read_bytes()
    assert (cut / "table.parquet").read_bytes() == table
    lines = (cut / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    # as a kill leaves it: in the middle of a row of the second draw
    (cut / "metrics.jsonl").write_bytes(b"".join(lines[:22]) + lines[22][:40])
    for name in ("table.parquet", "summary.json", "SHA256SUMS", "status.json"):
        (cut / name).unlink()
    probe(*words, name="cut")
    assert (cut / "table.parquet").read_bytes() == table
    assert json.loads((cut / "summary.json").read_text()) == json.loads((whole / "summary.json").read_text())


def test_of_many_widths_the_table_shows_some_with_the_best(
    probe: Run, results_of: Callable[[Path], Results], rows: Path
) -> None:
    directory = probe(f"features={rows}", "draws=2", "num_train=[40]", f"widths={list(range(4, 60, 4))}", "figures=[]")
    summary = json.loads((directory / "summary.json").read_text())
    assert len(set(summary["columns"])) == len(summary["columns"])
    widths = {row[summary["columns"].index("p")] for row in summary["rows"]}
    best = min(results_of(directory).points, key=lambda point: point.mean).width
    assert {4, best, 56} <= widths
    assert len(widths) <= 9
    assert any("at most 9 of 14 widths" in sentence for sentence in summary["verdict"])


def test_several_rows_of_a_context_are_left_out_together(
    probe: Run, results_of: Callable[[Path], Results], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    # rows of a context share most of their features and of their noise
    shared = np.repeat(np.arange(300), 10)
    features = 0.8 * rng.standard_normal((300, 60))[shared] + 0.6 * FEATURES
    targets = features[:, :2] + rng.standard_normal((300, 2))[shared] + 0.3 * rng.standard_normal((3000, 2))
    np.savez(path := tmp_path / "contexts.npz", features=features, targets=targets, groups=shared)
    words = ("rows_per_context=10", "num_train=[200]", "widths=[10,40]", "ridge=[0.1]", "draws=40", "figures=[]")
    folder = probe(f"features={path}", *words)
    results = results_of(folder)
    for point in results.points:
        assert abs(point.gap("leave_one_context_out")) < 15
        assert point.gap("leave_one_out") < -15
        assert point.gap("gcv") < -15
    assert {choice.how for choice in results.choices} == {"leave_one_context_out", "cross_validation"}
    summary = json.loads((folder / "summary.json").read_text())
    assert "leave-one-context-out" in summary["columns"]


def test_a_choice_is_named_for_the_estimate_that_made_it(
    probe: Run, results_of: Callable[[Path], Results], tmp_path: Path
) -> None:
    features = RNG.standard_normal((1000, 30))
    targets = features[:, :2] + RNG.standard_normal((1000, 2))
    np.savez(path := tmp_path / "contexts.npz", features=features, targets=targets, groups=np.arange(1000) // 10)
    words = (f"features={path}", "rows_per_context=10", "num_train=[30]", "folds=0", "draws=4", "figures=[]")
    # without ridge and for n - T <= p < n, no head has a leave-one-context-out error
    for ridge, name, said in (("0", "corr_gcv", "CorrGCV"), ("0,1", "leave_one_context_out", "leave-one-context-out")):
        folder = probe(*words, "widths=[20,28]", f"ridge=[{ridge}]", name=name)
        (choice,) = results_of(folder).choices
        assert (choice.how, choice.costs.size) == (name, 4)
        verdict = json.loads((folder / "summary.json").read_text())["verdict"]
        assert any(f"chosen from training rows alone by {said}:" in sentence for sentence in verdict)
        assert any("no leave-one-context-out error at p = 20, where one context" in sentence for sentence in verdict)


def test_every_draw_has_a_choice_and_is_done(
    probe: Run, results_of: Callable[[Path], Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # copies of rows, and rows of a context with the same features
    features = np.repeat(FEATURES[:300], 10, axis=0)
    np.savez(path := tmp_path / "rows.npz", features=features, targets=TARGETS, groups=np.arange(3000) // 10)
    for size, how in ((1, "leave_one_out"), (10, "gcv")):
        words = (f"features={path}", f"rows_per_context={size}", "widths=[40]", "ridge=[0]", "folds=0", "figures=[]")
        folder = probe(*words, name=how)
        assert results_of(folder).has_contexts == (size > 1)
        (choice,) = results_of(folder).choices
        assert (choice.how, choice.costs.size) == (how, 3)
        with monkeypatch.context() as patch:
            patch.setattr("lab.experiments.probe.job._draw", pytest.fail)
            probe(*words, name=how)


def test_a_finished_probe_is_reported_and_its_figures_are_drawn_again(
    probe: Run, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = probe(f"features={rows}", "widths=[5,20]", "figures=[]", name="probe/runs/small")
    for words, made in (
        (("report", str(folder), "-o", "page.html"), "page.html"),
        (("plot", str(folder), "--figure", "risk_by_ridge", "--out", "drawn"), "drawn/risk_by_ridge.png"),
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
        assert Path(made).exists()
    page = Path("page.html").read_text()
    assert "the elliptical theory predicts the minimum-norm head" in page
    assert "chosen by leave one out of training rows" in page


@pytest.mark.slow
def test_each_cause_can_be_taken_away(probe: Run, results_of: Callable[[Path], Results], tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    # near-copies: 200 clusters of 15 rows
    clusters = np.repeat(np.arange(200), 15)
    features = FEATURES[:200][clusters] + 0.05 * rng.standard_normal((3000, 60))
    targets = features @ rng.standard_normal((60, 2)) / 6 + rng.standard_normal((3000, 2))
    np.savez(path := tmp_path / "rows.npz", features=features, targets=targets, clusters=clusters)
    variants = "as_they_are,linear_labels,jitter,distinct,clustered,elliptical,gaussian"
    words = (f"features={path}", f"variants=[{variants}]", "num_train=[100]", "widths=[20,60]", "ridge=[0]", "draws=40")
    results = results_of(probe(*words, "folds=0", "figures=[causes]"))
    ratio = {p.curve: p.mean / p.lines["gaussian"] for p in results.points if p.width == 60}
    assert list(ratio) == [name.replace("_", " ") for name in variants.split(",")]
    # copies make the head worse than Gaussian rows; that draws have one, two or none of a cluster, no line knows
    assert ratio["as they are"] > 1.15
    assert ratio["clustered"] > 1.03
    assert ratio["gaussian"] == pytest.approx(1, abs=0.1)
    for point in results.points:
        if point.curve == "elliptical":
            assert point.gap("empirical") == pytest.approx(0, abs=5)
        if point.curve == "clustered":
            assert point.gap("empirical") < point.gap("gaussian")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["widths=[61]"], "widths=61: the rows have 60 features"),
        (["num_train=[3000]"], "num_train=3000: .* has 3000 rows"),
        (["rows_per_context=2"], "has no groups"),
        (["variants=[distinct]"], "has no clusters"),
        (["variants=[other]"], "variants=other: choose from"),
        (["model=shipped"], "give one of .*model=shipped: the teacher that ships"),
        (["ridge=[-1]"], r"ridge=-1\.0"),
        (["ridge=[1e101]"], "at most 1e\\+100"),
        (["rows_per_context=0"], "rows_per_context=0 must be 1 or more"),
        (["threads=0"], "threads=0 must be 1 or more"),
        (["figures=[causes,causes]"], "give each once"),
        (["skip=3"], "skip=3 belongs to model=MODEL"),
        (["target=next_token"], "target=next_token belongs to model=MODEL"),
        (["num_train=[30,30]"], "each once"),
        (["folds=1"], "folds=1: give 2 to"),
        (["rows_per_context=30"], "rows_per_context=30: a draw of num_train=30 rows is one context"),
        (["rows_per_context=10"], "folds=5: give 2 to 3, the number of contexts"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    probe: Run, rows: Path, tmp_path: Path, words: list[Any], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        probe(f"features={rows}", *words)
    assert not (tmp_path / "run").exists()


def with_nan() -> dict[str, Any]:
    features = FEATURES.copy()
    features[2500, 7] = np.nan
    return {"features": features, "targets": TARGETS}


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "not finite": (with_nan(), r"features\[2500, 7\]=nan must be finite"),
    "features of zeros": ({"features": 0 * FEATURES, "targets": TARGETS}, "all features are 0"),
    "targets of zeros": ({"features": FEATURES, "targets": 0 * TARGETS}, "all targets are 0"),
    "huge": ({"features": 1e200 * FEATURES, "targets": TARGETS}, "beyond float64"),
    "empty columns": (
        {"features": FEATURES * (np.arange(60) >= 7), "targets": TARGETS},
        "widths=5: the first 7 columns of .* are 0",
    ),
    "few contexts": (
        {"features": FEATURES, "targets": TARGETS, "groups": np.arange(3000) // 300},
        "has 10 contexts of 1 or more rows, too few for num_train=30; lower it to 10 or less, or raise "
        "rows_per_context to 3",
    ),
    "tiny": ({"features": 1e-170 * FEATURES, "targets": TARGETS}, "the largest of its features is .*e-170, whose"),
    "tiny targets": ({"features": FEATURES, "targets": 1e-170 * TARGETS}, "the largest of its targets is"),
}


@pytest.mark.parametrize(("arrays", "message"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_rows_that_cannot_be_used_are_refused_before_anything_is_written(
    probe: Run, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(path := tmp_path / "rows.npz", **arrays)
    with pytest.raises(LabError, match=message):
        probe(f"features={path}", "basis=as_given")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variant", "clusters", "message"),
    [
        ("distinct", np.arange(3000) % 25, "variants=distinct: one row of each cluster of .* has 25 rows, too few"),
        ("clustered", np.arange(3000), "variants=clustered: every cluster of .* has one row"),
    ],
)
def test_every_variant_is_checked_before_anything_is_written(
    probe: Run, tmp_path: Path, variant: str, clusters: Any, message: str
) -> None:
    np.savez(path := tmp_path / "rows.npz", features=FEATURES, targets=TARGETS, clusters=clusters)
    with pytest.raises(LabError, match=message):
        probe(f"features={path}", f"variants=[as_they_are,{variant}]")
    assert not (tmp_path / "run").exists()


def test_classes_stand_beside_variants_that_have_none(
    probe: Run, results_of: Callable[[Path], Results], tmp_path: Path
) -> None:
    arrays = {"features": FEATURES, "labels": np.arange(3000) % 3}
    np.savez(path := tmp_path / "rows.npz", **arrays)
    words = ("widths=[5]", "ridge=[0.01]", "draws=2", "folds=0", "figures=[]")
    results = results_of(probe(f"features={path}", "variants=[as_they_are,gaussian]", *words))
    assert {key[0] for key in results.classes} == {"as they are"}


def test_where_a_head_fits_all_rows_there_is_no_floor_and_no_line(
    probe: Run, results_of: Callable[[Path], Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(path := tmp_path / "rows.npz", features=FEATURES[:50], targets=TARGETS[:50])
    words = (f"features={path}", "num_train=[20]", "widths=[10,60]", "figures=[risk_by_width,causes]")
    folder = probe(*words, name="probe/runs/few")
    for point in results_of(folder).points:
        assert point.mean > 0
        assert np.isfinite(point.lines.get("elliptical", np.nan)) == (point.width == 10)
    summary = json.loads((folder / "summary.json").read_text())
    floors = {row[summary["columns"].index("p")]: row[summary["columns"].index("floor")] for row in summary["rows"]}
    assert floors[60] is None
    assert floors[10] is not None
    assert any("no floor and no lines at p = 60" in sentence for sentence in summary["verdict"])
    assert not any("leverage varies" in sentence for sentence in summary["verdict"])
    done = CliRunner().invoke(app, ["report", str(folder), "-o", "page.html"])
    assert done.exit_code == 0, done.stderr
    with pytest.raises(LabError, match=r"variants=gaussian: .* has 50 rows of 60 features"):
        probe(*words, "variants=[gaussian]")


@pytest.mark.filterwarnings("ignore:a singular value of")
def test_features_of_very_different_sizes_are_refused_where_rounding_is_all_that_is_left(
    probe: Run, tmp_path: Path
) -> None:
    # it depends on the processor whether the covariance is seen to be singular, or the risk to be negative
    for offset in (1e8, 1e9):
        np.savez(path := tmp_path / "rows.npz", features=offset + FEATURES[:100], targets=TARGETS[:100])
        with pytest.raises(LabError, match=r"rows\.npz: .*: its features differ too much in size"):
            probe(f"features={path}", "figures=[]", name=f"{offset:g}")
