"""The job of `lab hmm-risk sweep`: run and record every unit of work, then write table, figures and verdict."""

import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from lab.core.hydra_schema import in_run_directory, resolved, to_typed
from lab.core.native.build import compiler_version
from lab.core.native.fallback import say_missing_loops
from lab.core.resources import usable_cores
from lab.core.runs.console import print_directory, print_summary, progress
from lab.core.runs.parquet import write_table
from lab.core.runs.provenance import blas, collect
from lab.core.runs.record import Extension, Run
from lab.core.streams import say
from lab.experiments.hmm_risk import FREE, GROWS
from lab.experiments.hmm_risk.config import HmmRiskConfig
from lab.experiments.hmm_risk.estimate import needs, refuse_what_does_not_fit
from lab.experiments.hmm_risk.grid.cell import Cell, digests
from lab.experiments.hmm_risk.grid.expand import expand, merged_points
from lab.experiments.hmm_risk.pool import run_all
from lab.experiments.hmm_risk.rows import Row, TableRow
from lab.experiments.hmm_risk.units import Piece, count_pieces, recorded_pieces, units

if TYPE_CHECKING:
    from omegaconf import DictConfig


_log = logging.getLogger(__name__)

_FILTER = "hmm_filter"

# columns that a cell gives to each of its rows
_FROM_CELL = ("label", "curve", "num_train", "tokens_per_sequence", "context_length")
# columns of a recorded row that the table has from elsewhere
_KEYS = ("kind", "cell", "width", "problem", "num_between")


def check(config: "DictConfig", folder: Path | None = None) -> str:
    """Reject an invalid configuration, or one that is too large for this machine, before anything is written.

    Args:
        config: as composed.
        folder: where the sweep will write; None if another machine will run it.

    Returns:
        What the sweep will need, in words.

    Raises:
        ConfigError: naming key, value and fix.
    """
    settings = to_typed(config, HmmRiskConfig)
    cells = expand(settings)
    if folder is not None:
        refuse_what_does_not_fit(settings, cells, folder)
    return needs(settings, cells)


def recorded_config(config: "DictConfig") -> dict[str, object]:
    """What config.json of a sweep holds: the resolved configuration, and digests of the files that it names."""
    return _content(config, expand(to_typed(config, HmmRiskConfig)))


def _content(config: "DictConfig", cells: Sequence[Cell]) -> dict[str, object]:
    content = resolved(config)
    if files := digests(cells):
        # another content of a file is another configuration
        content["hmm"] = {**content["hmm"], "digests": files}
    return content


def run(config: "DictConfig") -> float:
    """Run or continue one sweep in Hydra's run directory.

    Returns:
        The largest relative gap between measured excess risk and theory away from p = n, which a sweeper may minimise;
        NaN without theory.

    Raises:
        LabError: for what the user can fix; what was recorded before is intact.
    """
    return in_run_directory(_execute, config)


def _execute(config: "DictConfig", directory: Path, overrides: Sequence[str]) -> float:
    settings = to_typed(config, HmmRiskConfig)
    cells = expand(settings)
    # on the machine that a launcher chose, too
    refuse_what_does_not_fit(settings, cells, directory)
    content = _content(config, cells)
    is_discrete = any(cell.is_discrete for cell in cells)
    missing = _missing_loop() if is_discrete else {}
    provenance, patch = collect(
        seeds={"seed": settings.seed},
        backends={"linear_algebra": blas(), **_filter_backend(missing, is_discrete=is_discrete)},
        computed_by=("numpy", "scipy", "torch") if is_discrete else ("numpy", "scipy"),
        settings={},
        compiler=compiler_version() if is_discrete and not missing else None,
    )
    extension = Extension(grows=GROWS, free=FREE)
    with Run[Row](directory, content, overrides, provenance, patch, settings.sinks, extension) as record:
        say_missing_loops(missing)
        for line in merged_points(settings):
            say(line)
        _work(record, settings, cells)
        return _report(record, settings, cells)


def _missing_loop() -> dict[str, str]:
    """Why the loop that filters sequences of discrete HMMs is missing, by the operator's name; empty if it is not."""
    # only a discrete HMM needs torch, which takes 2 s to import
    from lab.core.hmm.forward_filter import why_not_compiled  # noqa: PLC0415

    reason = why_not_compiled()
    return {} if reason is None else {_FILTER: reason}


def _filter_backend(missing: Mapping[str, str], *, is_discrete: bool) -> dict[str, str]:
    if not is_discrete:
        return {}
    return {_FILTER: "in torch" if _FILTER in missing else "compiled"}


def _work(record: Run[Row], settings: HmmRiskConfig, cells: Sequence[Cell]) -> None:
    done = recorded_pieces(record.rows, cells)
    record.keep(lambda row: Piece.of(row) in done)
    if record.damage is not None:
        say(f"{record.damage}: what is missing is computed again")
    if done:
        _log.info("%d of %d draws are already recorded and are skipped", len(done), count_pieces(cells))
    todo = units(cells, done)
    workers = min(settings.workers or usable_cores(), count_pieces(cells) - len(done))
    num_done = len(done)
    # closed here, where an interruption is known to be answered: a second Ctrl-C does not disturb it
    with (
        closing(run_all(cells, todo, workers)) as results,
        progress("draws", count_pieces(cells), completed=num_done) as advance,
    ):
        for unit, rows in results:
            record.log(rows)
            num_done += unit.num_pieces
            advance(num_done)


def table_rows(rows: Sequence[Row], cells: Sequence[Cell]) -> Iterator[TableRow]:
    """Measured rows with their theory, ordered by cell, width, ridge, problem and replicate; made one at a time.

    Without draws, there is a row for each theory.
    """
    theory: dict[int, dict[tuple[int, str, int], int]] = {}
    measured: dict[int, array[int]] = {}
    for place, row in enumerate(rows):
        if row["kind"] == "theory":
            theory.setdefault(row["cell"], {})[row["width"], row["ridge"], row["problem"]] = place
        elif row["kind"] == "measured":
            measured.setdefault(row["cell"], array("q")).append(place)

    def order(place: int) -> tuple[int, str, int, int]:
        row = rows[place]
        assert row["kind"] == "measured", "it is among these"
        return row["width"], row["ridge"], row["problem"], row["replicate"]

    for index in sorted(theory):
        known = theory[index]
        if index not in measured:
            yield from (_joined(None, rows[known[key]], cells[index]) for key in sorted(known))
            continue
        for place in sorted(measured[index], key=order):
            key = order(place)[:3]
            yield _joined(rows[place], rows[known[key]], cells[index])


def _joined(row: Row | None, known: Row, cell: Cell) -> TableRow:
    """A measured row with its theory; the theory alone if there is none."""
    assert row is None or row["kind"] == "measured", "the other one is theory"
    assert known["kind"] == "theory", "of the same width, ridge and problem"
    joined: TableRow = {
        "cell": cell.index,
        **{name: getattr(cell, name) for name in _FROM_CELL},
        "width": known["width"],
        "gamma": known["width"] / cell.num_train,
        "problem": known["problem"],
        **{key: value for key, value in {**(row or {}), **known}.items() if key not in _KEYS},
    }
    if row is not None and "bias" in row:
        assert "noise_floor" in known, "a risk that is measured exactly has a theory"
        excess = row["bias"] + row["variance"]
        joined |= {
            "excess_risk": excess,
            "prediction_risk": excess + known["noise_floor"],
            "fixed_problem_excess": excess + known["misspecification"],
        }
    return joined


def _report(record: Run[Row], settings: HmmRiskConfig, cells: Sequence[Cell]) -> float:
    """Tables, figures and verdict, rebuilt from the recorded rows, so that a resumed run ends like any other."""
    # importing matplotlib takes as long as a small sweep: defer it until there is something to draw
    from lab.core.runs.figures import draw_figures  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.figure_spec import figure_data  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.figures import figure  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.report import headline, largest_gap, summary_table  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.summary import Curves  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.verdict import verdict  # noqa: PLC0415
    from lab.experiments.hmm_risk.theory_lines.table import theory_lines, write_lines  # noqa: PLC0415

    found = Curves()
    write_table(record.folder() / "table.parquet", found.seen(table_rows(record.rows, cells)))
    curves = found.all()
    lines = found.labelled(curves, theory_lines(record.rows, cells))
    write_lines(record.folder(), lines)
    num_classes = {cell.task.num_outputs for cell in cells if "accuracy" in cell.quantities}
    data = figure_data(curves, lines, per_output=settings.per_output, seed=settings.seed, num_classes=num_classes)
    drawn = draw_figures(record.folder("figures"), settings.figures, lambda name: figure(name).drawn(data))
    sentences = verdict(curves, is_one_problem="fixed_problem_excess" in settings.figures)
    header, body = summary_table(curves)
    record.save_summary(header, body, sentences)
    record.set_headline(settings.title, headline(curves))
    print_summary(settings.title, header, body, sentences, drawn)
    print_directory(record.directory)
    return largest_gap(curves)
