"""The job of `lab hmm-risk sweep`: run and record every unit of work, then write table, figures and verdict."""

import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.core.hydra_schema import to_typed
from lab.core.native.build import compiler_version
from lab.core.native.fallback import say_missing_loops
from lab.core.resources import usable_cores
from lab.core.runs.console import print_summary, progress
from lab.core.runs.parquet import write_table
from lab.core.runs.provenance import blas, collect
from lab.core.runs.record import Run
from lab.core.streams import say
from lab.experiments.hmm_risk.config import HmmRiskConfig
from lab.experiments.hmm_risk.estimate import refuse_what_does_not_fit
from lab.experiments.hmm_risk.grid.cell import Cell, digests
from lab.experiments.hmm_risk.grid.expand import expand, merged_points
from lab.experiments.hmm_risk.pool import Unit, count_units, run_all, units
from lab.experiments.hmm_risk.rows import Row, TableRow

if TYPE_CHECKING:
    from omegaconf import DictConfig


_log = logging.getLogger(__name__)

_FILTER = "hmm_filter"

# columns that a cell gives to each of its rows
_FROM_CELL = ("label", "curve", "num_train", "tokens_per_sequence", "context_length")


def check(config: "DictConfig", folder: Path | None = None) -> None:
    """Reject an invalid configuration, or one that is too large for this machine, before anything is written.

    Args:
        config: as composed.
        folder: where the sweep will write; None if another machine will run it.

    Raises:
        ConfigError: naming key, value and fix.
    """
    settings = to_typed(config, HmmRiskConfig)
    cells = expand(settings)
    if folder is not None:
        refuse_what_does_not_fit(settings, cells, folder)


def run(config: "DictConfig") -> float:
    """Run or continue one sweep in Hydra's run directory.

    Returns:
        The largest relative gap between measured excess risk and theory away from p = n, which a sweeper may minimise;
        NaN without theory.

    Raises:
        LabError: for what the user can fix; what was recorded before is intact.
    """
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415
    from omegaconf import OmegaConf  # noqa: PLC0415

    settings = to_typed(config, HmmRiskConfig)
    cells = expand(settings)
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    # on the machine that a launcher chose, too
    refuse_what_does_not_fit(settings, cells, directory)
    resolved = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(resolved, dict), "a composed configuration is a mapping"
    content = {str(key): value for key, value in resolved.items()}
    if files := digests(cells):
        # another content of a file is another configuration
        content["hmm"] = {**content["hmm"], "digests": files}
    is_discrete = any(cell.is_discrete for cell in cells)
    missing = _missing_loop() if is_discrete else {}
    provenance, patch = collect(
        seeds={"seed": settings.seed},
        backends={"linear_algebra": blas(), **_filter_backend(missing, is_discrete=is_discrete)},
        computed_by=("numpy", "scipy", "torch") if is_discrete else ("numpy", "scipy"),
        settings={},
        compiler=compiler_version() if is_discrete and not missing else None,
    )
    with Run[Row](directory, content, list(hydra.overrides.task), provenance, patch, settings.sinks) as record:
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
    done = recorded_units(record.rows, units(cells), cells)
    todo = [unit for unit in units(cells) if unit not in done]
    unfinished = {(unit.cell, replicate) for unit in todo for replicate in unit.replicates or (None,)}
    record.keep(lambda row: (row["cell"], row.get("replicate")) not in unfinished)
    if record.damage is not None:
        say(f"{record.damage}: what they held is computed again")
    num_units = count_units(cells)
    if done:
        _log.info("%d of %d units of work are already recorded and are skipped", len(done), num_units)
    workers = min(settings.workers or usable_cores(), len(todo))
    with progress("draws", num_units, completed=len(done)) as advance:
        for number, (_, rows) in enumerate(run_all(cells, todo, workers), start=len(done) + 1):
            record.log(rows)
            advance(number)


def recorded_units(rows: Iterable[Row], every_unit: Iterable[Unit], cells: Sequence[Cell]) -> set[Unit]:
    """The units with all rows recorded; rows of an interrupted unit are ignored."""
    counts: dict[int, dict[object, int]] = {}
    for row in rows:
        of_cell, replicate = counts.setdefault(row["cell"], {}), row.get("replicate")
        of_cell[replicate] = of_cell.get(replicate, 0) + 1
    done = set()
    for unit in every_unit:
        size = len(cells[unit.cell].widths) * len(cells[unit.cell].ridge)
        of_cell = counts.get(unit.cell, {})
        if all(of_cell.get(replicate) == size for replicate in unit.replicates or (None,)):
            done.add(unit)
    return done


def table_rows(rows: Sequence[Row], cells: Sequence[Cell]) -> Iterator[TableRow]:
    """Measured rows with their theory, ordered by cell, width, ridge and replicate; made one at a time."""
    theory: dict[int, list[Row]] = {}
    measured: dict[int, array[int]] = {}
    for place, row in enumerate(rows):
        if row["kind"] == "theory":
            theory.setdefault(row["cell"], []).append(row)
        else:
            measured.setdefault(row["cell"], array("q")).append(place)

    def order(place: int) -> tuple[int, str, int]:
        row = rows[place]
        assert row["kind"] != "theory", "it is among the others"
        return row["width"], row["ridge"], row["replicate"]

    for index in sorted(measured):
        known = {(row["width"], row["ridge"]): row for row in theory[index]}
        for place in sorted(measured[index], key=order):
            row = rows[place]
            yield _joined(row, known[row["width"], row["ridge"]], cells[index])


def _joined(row: Row, known: Row, cell: Cell) -> TableRow:
    """A measured row with its theory."""
    assert row["kind"] != "theory", "the other one is"
    assert known["kind"] == "theory", "of the same width and ridge"
    joined: TableRow = {
        "cell": cell.index,
        **{name: getattr(cell, name) for name in _FROM_CELL},
        "width": row["width"],
        "gamma": row["width"] / cell.num_train,
        **{key: value for key, value in row.items() if key not in ("kind", "cell", "width")},
        **{key: value for key, value in known.items() if key not in ("kind", "cell", "width", "ridge")},
    }
    if "bias" in row:
        assert "noise_floor" in known, "a risk that is measured exactly has a theory"
        excess = row["bias"] + row["variance"]
        joined |= {
            "excess_risk": excess,
            "prediction_risk": excess + known["noise_floor"],
            "fixed_problem_excess": excess + known["misspecification"],
        }
    return joined


def _report(record: Run[Row], settings: HmmRiskConfig, cells: Sequence[Cell]) -> float:
    """Table, figures and verdict, rebuilt from the recorded rows, so that a resumed run ends like any other."""
    # importing matplotlib takes as long as a small sweep: defer it until there is something to draw
    from lab.core.runs.figures import draw_figures  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.figure_spec import FigureData  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.figures import figure  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.report import headline, largest_gap, summary_table  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.summary import Curves  # noqa: PLC0415
    from lab.experiments.hmm_risk.results.verdict import verdict  # noqa: PLC0415

    found = Curves()
    write_table(record.folder() / "table.parquet", found.seen(table_rows(record.rows, cells)))
    lines = found.all()
    data = FigureData(lines, "per output" if settings.per_output else "(sum over outputs)")
    drawn = draw_figures(record.folder("figures"), settings.figures, lambda name: figure(name).drawn(data))
    sentences = verdict(lines, is_one_problem="fixed_problem_excess" in settings.figures)
    header, body = summary_table(lines)
    record.save_summary(header, body, sentences)
    record.set_headline(settings.title, headline(lines))
    print_summary(settings.title, header, body, sentences, drawn)
    return largest_gap(lines)
