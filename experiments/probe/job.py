"""The job of `lab probe`: theory and draws of every curve, recorded one by one, then table, figures and verdict."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lab.core.errors import RunError
from lab.core.heads.population import CrossRangeError
from lab.core.hydra_schema import in_run_directory, resolved, to_typed
from lab.core.products import current
from lab.core.resources import refuse_too_many_threads, usable_cores
from lab.core.runs.parquet import write_table
from lab.core.runs.provenance import blas, collect
from lab.core.runs.random_streams import Seeds
from lab.core.runs.record import Extension, Run, deciding
from lab.core.streams import say
from lab.experiments.distill.teacher import device_of
from lab.experiments.probe.config import ProbeConfig
from lab.experiments.probe.curves import Curve, curves_of, refuse_unreadable, widths_of
from lab.experiments.probe.feature_file import open_features
from lab.experiments.probe.lines import TheoryLines
from lab.experiments.probe.measure import guessed, measured_rows
from lab.experiments.probe.pool import Pool
from lab.experiments.probe.rows import CurveRow, Row

if TYPE_CHECKING:
    from omegaconf import DictConfig

_EXTENSION = Extension(free=frozenset({"figures"}))
# rounding of a perfect fit is far nearer to zero
_LEAST_RISK = -1e-6
_TOO_DIFFERENT = "its features differ too much in size for float64; subtract their means, or scale columns to one size"
_PACKAGES = ("numpy", "scipy", "torch", "pyarrow", "safetensors")


def check(config: "DictConfig", folder: Path | None = None) -> str:
    """Refuse what cannot work before anything is written: files, their arrays, and names of models.

    Args:
        config: as composed.
        folder: where the run will write.

    Returns:
        How many draws of how many curves there are, in words.

    Raises:
        LabError: naming key or file, value and fix.
    """
    settings = to_typed(config, ProbeConfig)
    refuse_too_many_threads(settings.threads if folder is not None else None)
    device_of(settings.device)
    found = curves_of(settings)
    refuse_unreadable(settings)
    return f"{settings.draws} draws of {len(found)} curves"


def recorded_config(config: "DictConfig") -> dict[str, object]:
    """What config.json of a probe holds: the resolved configuration, with a digest of the features."""
    settings = to_typed(config, ProbeConfig)
    content = deciding(resolved(config))
    if settings.features is not None:
        paths = [None if name is None else Path(name) for name in (settings.targets, settings.groups)]
        # another content of a file is another configuration
        digest = open_features(Path(settings.features), *paths).digest
        content["features"] = {"file": settings.features, "digest": digest}
    return content


def run(config: "DictConfig") -> float:
    """Run or continue one probe in Hydra's run directory.

    Returns:
        The lowest mean risk of the last curve, over that of predicting zero.

    Raises:
        LabError: for what the user can fix; what was recorded before is intact.
    """
    return in_run_directory(execute, config)


def execute(config: "DictConfig", directory: Path, overrides: Sequence[str]) -> float:
    """Run or continue a composed configuration in a directory; see `run`."""
    settings = to_typed(config, ProbeConfig)
    refuse_too_many_threads(settings.threads)
    torch.set_num_threads(settings.threads or usable_cores())
    content = recorded_config(config)
    with current.using(settings.products):
        return _execute(settings, content, directory, overrides)


def _execute(settings: ProbeConfig, content: Mapping[str, Any], directory: Path, overrides: Sequence[str]) -> float:
    curves = curves_of(settings)
    provenance, patch = collect(
        seeds={"seed": settings.seed},
        backends={"linear_algebra": blas()},
        computed_by=_PACKAGES,
        settings={"device": str(device_of(settings.device)), "threads": str(torch.get_num_threads())},
    )
    content = {**content, "resume_on": settings.resume_on.value}
    with Run[Row](directory, content, overrides, provenance, patch, settings.sinks, _EXTENSION) as record:
        _work(record, settings, curves)
        return _report(record, settings, curves)


def _work(record: Run[Row], settings: ProbeConfig, curves: Sequence[Curve]) -> None:
    from lab.core.runs.console import progress  # noqa: PLC0415

    done = _finished(record, settings)
    record.keep(lambda row: _unit(row) in done)
    if record.damage is not None:
        say(f"{record.damage}: what is missing is computed again")
    total = len(curves) * (1 + settings.draws)
    with progress("draws", total, completed=len(done)) as advance:
        num_done = len(done)
        for curve in curves:
            units = [(curve.label, None), *((curve.label, draw) for draw in range(settings.draws))]
            todo = [unit for unit in units if unit not in done]
            if not todo:
                # its states and moments are not needed
                continue
            pool = curve.pool(settings)
            _refuse_other_states(record, curve)
            for label, draw in todo:
                rows = _theory(pool, curve, settings) if draw is None else _draw(pool, label, draw, settings)
                with _rounding_refused(label or str(settings.features)):
                    record.log(list(rows))
                record.flush()
                num_done += 1
                advance(num_done)


def _refuse_other_states(record: Run[Row], curve: Curve) -> None:
    """Refuse to go on with states of another model or of other data than those of the draws that are recorded."""
    known = (row for row in record.rows if row["kind"] == "curve" and row["curve"] == curve.label)
    if curve.states is not None and any(row.get("states") != curve.states() for row in known):
        raise RunError(
            f"{record.directory}: {curve.label}: the model, or what it reads, was changed since the draws that are "
            "recorded; put it back, or start a new run"
        )


def _theory(pool: Pool, curve: Curve, settings: ProbeConfig) -> Iterator[Row]:
    """The lines of a curve, and last what is known of its rows."""
    label, widths = curve.label, widths_of(settings, pool.shape[1])
    lines = TheoryLines(pool)
    yield from lines.rows(label, num_train=settings.num_train, widths=widths, ridge=settings.ridge)
    row: CurveRow = {
        "kind": "curve",
        "curve": label,
        "num_rows": pool.shape[0],
        "num_features": pool.shape[1],
        "num_outputs": pool.shape[2],
        "null_risk": pool.null_risk,
        "leverage_sd": lines.leverage_sd(),
        "cosine": pool.cosine(),
    }
    if curve.states is not None:
        row["states"] = curve.states()
    if pool.num_clusters is not None:
        row["num_clusters"] = pool.num_clusters
    if pool.num_contexts is not None:
        row["num_contexts"] = pool.num_contexts
    if pool.is_class:
        row["guess_accuracy"], row["guess_log_loss"] = guessed(pool)
    yield row


def _draw(pool: Pool, label: str, draw: int, settings: ProbeConfig) -> Iterator[Row]:
    for num_train in settings.num_train:
        rows = measured_rows(
            pool,
            label,
            draw,
            num_train=num_train,
            widths=widths_of(settings, pool.shape[1]),
            ridge=settings.ridge,
            rows_per_context=settings.rows_per_context,
            folds=settings.folds,
            seeds=Seeds(settings.seed),
        )
        for row in rows:
            _refuse_rounding(row, label or str(settings.features))
            yield row


def _refuse_rounding(row: Row, name: str) -> None:
    """Refuse a risk that is clearly negative: moments of features of very different sizes hold rounding alone."""
    if row["kind"] == "measured" and row["risk"] < _LEAST_RISK:
        raise RunError(
            f"{name}: the head of p = {row['width']}, ridge {row['ridge']:g} has the risk {row['risk']:.3g}, below "
            f"zero: {_TOO_DIFFERENT}"
        )


@contextmanager
def _rounding_refused(name: str) -> Iterator[None]:
    """Moments of the same rows contradict each other only where they hold rounding alone: say so, not how to give them.

    Raises:
        RunError: for such features.
    """
    try:
        yield
    except CrossRangeError as error:
        raise RunError(f"{name}: only rounding is left of its covariance: {_TOO_DIFFERENT}") from error


def _unit(row: Row) -> tuple[str, int | None]:
    """What is done as one: the theory of a curve, or one draw."""
    return row["curve"], row["draw"] if row["kind"] in ("measured", "choice") else None


def _finished(record: Run[Row], settings: ProbeConfig) -> set[tuple[str, int | None]]:
    """Units all of whose rows are recorded: a kill, or a damaged line, may leave some out."""
    counts: dict[tuple[str, int | None], int] = {}
    widths: dict[str, int] = {}
    for row in record.rows:
        counts[_unit(row)] = counts.get(_unit(row), 0) + 1
        if row["kind"] == "curve":
            widths[row["curve"]] = len(widths_of(settings, row["num_features"]))
    num_lines = len(settings.num_train) * len(settings.ridge)
    num_choices = len(settings.num_train) * (2 if settings.folds else 1)

    def expected(unit: tuple[str, int | None]) -> int:
        per_curve = widths.get(unit[0], -1) * num_lines
        return per_curve + (1 if unit[1] is None else num_choices)

    return {unit for unit, count in counts.items() if count == expected(unit)}


def _in_order(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Row]:
    """Rows in an order that does not depend on when they were recorded."""
    places = {curve.label: place for place, curve in enumerate(curves)}
    kinds = ("curve", "theory", "measured", "choice")

    def key(row: Any) -> tuple[Any, ...]:
        names = ("num_train", "width", "ridge", "draw")
        numbers = (
            tuple(row.get(name, 0) for name in names) if row["kind"] != "choice" else (row["num_train"], row["draw"])
        )
        return places[row["curve"]], kinds.index(row["kind"]), *numbers, row.get("how", "")

    return sorted(rows, key=key)


def _report(record: Run[Row], settings: ProbeConfig, curves: Sequence[Curve]) -> float:
    """Table, figures and verdict, rebuilt from the recorded rows, so that a resumed run ends like any other."""
    from lab.core.runs.console import print_directory, print_summary  # noqa: PLC0415
    from lab.core.runs.figures import draw_figures  # noqa: PLC0415
    from lab.experiments.probe.figures import drawn  # noqa: PLC0415
    from lab.experiments.probe.report import headline, summary_table, verdict  # noqa: PLC0415
    from lab.experiments.probe.results import Results, lowest  # noqa: PLC0415

    table = _in_order(record.rows, curves)
    write_table(record.folder() / "table.parquet", table)
    results = Results.of(table)
    paths = draw_figures(record.folder("figures"), settings.figures, lambda name: drawn(name, results))
    header, body = summary_table(results)
    sentences = verdict(results, settings.basis)
    record.save_summary(header, body, sentences)
    record.set_headline(settings.title, headline(results))
    print_summary(settings.title, header, body, sentences, paths)
    print_directory(record.directory)
    return lowest([point for point in results.points if point.curve == curves[-1].label]).mean
