"""A sweep as a list of cells: curves and grids, multiplied out."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from itertools import product
from math import prod
from typing import Literal, TypedDict

from lab.core.errors import ConfigError
from lab.core.hydra_schema import with_overrides
from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    FileConfig,
    HmmRiskConfig,
    RepresentationName,
    TaskName,
)
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.grid.cell_checks import check_cell
from lab.experiments.hmm_risk.grid.keys import refuse_unread_keys
from lab.experiments.hmm_risk.key_checks import as_list, refuse_unless
from lab.experiments.hmm_risk.own_hmm import OwnGaussian, read_hmm
from lab.experiments.hmm_risk.results.figure_spec import FigureSpec
from lab.experiments.hmm_risk.results.figures import figure

# the exact posterior and functions of it: no observation noise is added
_NOISELESS = (RepresentationName.posterior, RepresentationName.next_token_distribution)

# keys of how a run is executed and shown, which do not define a problem
_OF_THE_RUN = {"title", "gammas", "workers", "curves", "figures", "sinks", "resume_on"}

GridKey = Literal["num_train", "tokens_per_sequence", "context_length", "observation_noise", "snr", "num_states"]

# of keys of the configuration; num_states is one of its group
_GRIDS = ("num_train", "tokens_per_sequence", "context_length", "observation_noise", "snr")
_MOST_CELLS = 100_000

# how a grid value is written in a legend; grids with one value are omitted
_LEGEND: dict[GridKey, str] = {
    "num_train": "n = {}",
    "tokens_per_sequence": "T = {}",
    "context_length": "context {}",
    "observation_noise": "noise {:g}",
    "snr": "SNR {:g}",
    "num_states": "S = {}",
}


class GridPoint(TypedDict):
    """One value of each grid.

    Attributes:
        num_train: n, training rows.
        tokens_per_sequence: rows per sequence.
        context_length: tokens read before the predicted one.
        observation_noise: standard deviation of the representation's own noise.
        snr: signal-to-noise ratio; None if it is not given.
        num_states: S, states of a discrete HMM; None for a linear-Gaussian one.
    """

    num_train: int
    tokens_per_sequence: int
    context_length: int
    observation_noise: float
    snr: float | None
    num_states: int | None


def expand(config: HmmRiskConfig) -> list[Cell]:
    """All cells of a sweep, checked.

    Raises:
        ConfigError: for an invalid combination.
    """
    figures = {name: figure(name) for name in config.figures}
    points: list[tuple[str, HmmRiskConfig, GridPoint]] = []
    curves = _curves(config)
    _refuse_too_many(curves)
    for curve, curve_config in curves.items():
        points += [(curve, curve_config, point) for point in _grid_points(curve_config)]
    # the quantity on the x axis is not part of a curve's name
    on_axis = {spec.x for spec in figures.values()}
    if all(curve_config.representation.name is RepresentationName.posterior for _, curve_config, _ in points):
        on_axis |= {"num_states"}
    varying = {key for key in _LEGEND if key not in on_axis and len({str(point[key]) for _, _, point in points}) > 1}
    cells = []
    for index, (curve, curve_config, point) in enumerate(points):
        cell = _cell(index, curve, curve_config, point, varying)
        check_cell(cell)
        cells.append(cell)
    refuse_unread_keys(config, curves, cells)
    for name, spec in figures.items():
        _check_figure(name, spec, cells)
    return cells


def merged_points(config: HmmRiskConfig) -> list[str]:
    """For every curve and n, a line that says which gammas are one width, so that fewer points run than were given."""
    lines = []
    for curve, curve_config in _curves(config).items():
        if curve_config.widths is not None or curve_config.representation.name in _NOISELESS:
            continue
        for num_train in as_list(curve_config.num_train):
            gammas: dict[int, list[str]] = {}
            for gamma, width in curve_config.rounded(num_train).items():
                gammas.setdefault(width, []).append(f"{gamma:g}")
            merged = [f"{' and '.join(names)} are p = {width}" for width, names in gammas.items() if len(names) > 1]
            if merged:
                place = f"curves.{curve}: " if curve else ""
                lines.append(f"{place}gammas with num_train={num_train}: {', '.join(merged)}; each is one point")
    return lines


def _curves(config: HmmRiskConfig) -> dict[str, HmmRiskConfig]:
    """The configuration of every curve, by label."""
    curves = {}
    for curve, overrides in (config.curves or {"": {}}).items():
        changed = with_overrides(replace(config, curves={}), overrides, label=f"curves.{curve}")
        curves[curve] = replace(changed, hmm=read_hmm(changed.hmm)) if isinstance(changed.hmm, FileConfig) else changed
    return curves


def _refuse_too_many(curves: Mapping[str, HmmRiskConfig]) -> None:
    """Refuse grids of more cells than can be listed, before they are."""
    lengths = {key: max(len(as_list(getattr(config, key))) for config in curves.values()) for key in _GRIDS}
    num_cells = sum(prod(len(as_list(getattr(config, key))) for key in _GRIDS) for config in curves.values())
    if num_cells > _MOST_CELLS:
        longest = max(lengths, key=lambda key: lengths[key])
        raise ConfigError(
            f"{longest} has {lengths[longest]} values, and all grids together {num_cells:,} cells, of which "
            f"{_MOST_CELLS:,} are possible; give fewer values"
        )


def _check_figure(name: str, spec: FigureSpec, cells: list[Cell]) -> None:
    """Refuse a figure whose columns are missing for some problem."""
    for cell in cells:
        for column in spec.columns:
            refuse_unless(
                column in cell.quantities,
                "figures",
                name,
                f"it draws {column}, which is not measured {f'for {cell.label}' if cell.label else 'here'}; "
                f"choose figures of {', '.join(cell.quantities)}",
            )
            has_theory = column.startswith("theory_") or f"theory_{column}" in cell.quantities
            refuse_unless(
                cell.replicates > 0 or has_theory,
                "figures",
                name,
                f"it draws {column}, which has no theory, and replicates=0 draws nothing; raise that",
            )


def _grid_points(config: HmmRiskConfig) -> Iterator[GridPoint]:
    noises = as_list(config.observation_noise)
    if config.snr is not None and config.task.name is TaskName.next_state:
        # snr determines the noise, so observation_noise is not another axis of the grid
        noises = noises[:1]
    if config.representation.name in _NOISELESS:
        noises = [0.0]
    if isinstance(config.hmm, OwnGaussian) and config.hmm.observation_noise is not None:
        noises = [config.hmm.observation_noise]
    for num_train, tokens_per_sequence, context_length, noise, snr, num_states in product(
        as_list(config.num_train),
        as_list(config.tokens_per_sequence),
        as_list(config.context_length),
        noises,
        as_list(config.snr),
        as_list(config.hmm.num_states) if isinstance(config.hmm, DiscreteConfig) else [None],
    ):
        yield {
            "num_train": num_train,
            "tokens_per_sequence": tokens_per_sequence,
            "context_length": context_length,
            "observation_noise": noise,
            "snr": snr,
            "num_states": num_states,
        }


def _cell(index: int, curve: str, config: HmmRiskConfig, point: GridPoint, varying: set[GridKey]) -> Cell:
    hmm = config.hmm
    widths = config.widths_at(point["num_train"])
    if isinstance(hmm, DiscreteConfig):
        hmm = replace(hmm, num_states=point["num_states"])
        # the width is the number of states for a posterior, the vocabulary size for a next-token distribution
        if config.representation.name is RepresentationName.posterior:
            widths = (hmm.num_states,)
        elif config.representation.name is RepresentationName.next_token_distribution:
            widths = (hmm.num_tokens,)
    # every key that is not about the run itself is passed on by name; Cell refuses unknown ones
    values = {key.name: getattr(config, key.name) for key in fields(HmmRiskConfig) if key.name not in _OF_THE_RUN}
    values |= {key: value for key, value in point.items() if key in values}
    words = [_LEGEND[key].format(point[key]) for key in _LEGEND if key in varying and point[key] is not None]
    resolved = {
        "index": index,
        "curve": curve,
        "label": ", ".join([curve, *words] if curve else words),
        "hmm": hmm,
        "widths": widths,
        "observation_noise": float(point["observation_noise"]),
        "ridge": tuple(config.ridge),
    }
    return Cell(**values | resolved)
