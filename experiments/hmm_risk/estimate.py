"""What a sweep will need: memory and disk, estimated from its sizes before anything is drawn.

The factors are fitted to measured peaks (tests/experiments/hmm_risk/test_estimate.py) and hold within a factor of two:
they count the arrays that are as large as the features (n x d) or as a matrix of one side of them.
"""

# Letters: n rows, d features of the full model, p width, q state entries, m outputs, S states, V tokens, T tokens read,
# N sequences.

from collections.abc import Sequence
from pathlib import Path

from lab.core.resources import refuse_too_large, refuse_too_much_disk, size_in_words, usable_cores
from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    HmmRiskConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationName,
    SizeMap,
    TaskName,
)
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.units import count_units

_FLOAT = 8

# sequences that are filtered at a time when second moments are estimated
_FILTERED = 10_000

# a worker process before it has work: numpy and scipy, and torch for a discrete HMM
_WORKER_BYTES, _TORCH_BYTES = 60e6, 150e6

# a row in memory (recorded, and joined in the table) and on the disk (metrics.jsonl, table)
_ROW_BYTES, _ROW_DISK_BYTES = 3000, 500


def refuse_what_does_not_fit(settings: HmmRiskConfig, cells: Sequence[Cell], folder: Path) -> None:
    """Refuse a sweep that this machine has no room for.

    Args:
        settings: of the sweep.
        cells: its problems.
        folder: where it writes; it need not exist.

    Raises:
        ConfigError: with the estimate, what is free, and what to lower.
    """
    num_rows = rows_of(cells)
    draws = f"problems={settings.problems} and " * (settings.problems > 1) + f"replicates={settings.replicates}"
    many = f"{num_rows:,} rows of {len(cells):,} cells with {draws}"
    hint = f"lower {'problems, ' * (settings.problems > 1)}replicates, or the lengths of the grids"
    refuse_too_large(num_rows * _ROW_BYTES, many, hint)
    refuse_too_much_disk(num_rows * _ROW_DISK_BYTES, folder, many, hint)
    largest = max(cells, key=work_bytes)
    num_workers = workers_of(settings, cells)
    sizes = f"num_train={largest.num_train} with {_sizes(largest)} and workers={num_workers}"
    refuse_too_large(sweep_bytes(settings, cells), sizes, "lower widths, num_train, the sizes of hmm, or workers")


def needs(settings: HmmRiskConfig, cells: Sequence[Cell]) -> str:
    """Draws, and memory at the peak, in words."""
    num_draws = sum(cell.problems * cell.replicates * len(cell.widths) * len(cell.ridge) for cell in cells)
    return f"{num_draws:,} risks, {size_in_words(sweep_bytes(settings, cells))} of memory"


def sweep_bytes(settings: HmmRiskConfig, cells: Sequence[Cell]) -> float:
    """Memory of all processes of a sweep at their peak."""
    num_workers, work = workers_of(settings, cells), max(map(work_bytes, cells))
    torch_bytes = _TORCH_BYTES if any(cell.is_discrete for cell in cells) else 0
    processes = num_workers * (_WORKER_BYTES + torch_bytes) if num_workers > 1 else torch_bytes
    return processes + num_workers * work + rows_of(cells) * _ROW_BYTES


def workers_of(settings: HmmRiskConfig, cells: Sequence[Cell]) -> int:
    """The processes that work at a time."""
    return min(settings.workers or usable_cores(), count_units(cells))


def rows_of(cells: Sequence[Cell]) -> int:
    """Rows that are recorded: theory, and one for each draw, for each problem, width and ridge."""
    return sum(cell.problems * (cell.replicates + 1) * len(cell.widths) * len(cell.ridge) for cell in cells)


def work_bytes(cell: Cell) -> float:
    """Memory of the arrays of one draw of a cell, at their peak."""
    if isinstance(cell.hmm, DiscreteConfig):
        return _FLOAT * _discrete(cell, cell.hmm)
    return _FLOAT * _gaussian(cell, cell.hmm)


def _gaussian(cell: Cell, hmm: LinearGaussianConfig) -> float:
    n, d, is_growing = cell.num_train, cell.num_features, hmm.loading is Loading.identity
    q = hmm.state_dim or d
    num_outputs = _num_outputs(cell, hmm)
    num_test = cell.num_test or 0
    problem = 0.0 if is_growing else _problem(cell, q)
    if cell.representation.size_map is SizeMap.random_projection:
        problem += 6.0 * d**2
    # states, noise, and the sum of both are there at a time; the first and last stay
    drawn = 5.1 * max(d, q) if is_growing else d + (cell.context_length + 1) * q
    kept = d + num_outputs
    if cell.tokens_per_sequence > 1:
        solve = 17.0 * n * d + 8.0 * d * cell.tokens_per_sequence**2 if is_growing else 5.0 * n * d
        if cell.representation.name is RepresentationName.context_window:
            # lag covariances of the widest model, and products of them
            solve += 6.0 * cell.tokens_per_sequence * cell.widths[-1] ** 2
        return problem + max(n * drawn, solve)
    solve = max(_solve(cell, width) for width in {cell.widths[0], cell.widths[-1]})
    if num_test:
        solve = max(solve, 3.0 * n * d + 3.0 * min(n, d) ** 2 + num_outputs * (d + 3.0 * num_test))
    return problem + max(max(n, num_test) * drawn, (n + num_test) * kept + solve)


def _problem(cell: Cell, q: int) -> float:
    """Transition, loading and second moments of a state of fixed size; the filter has covariances of every token."""
    latent = q * (cell.representation.window if cell.representation.name is RepresentationName.context_window else 1)
    if cell.representation.name is RepresentationName.kalman_state:
        seen = cell.context_length * (cell.representation.observation_dim or 1)
        return 4.0 * cell.context_length * q**2 + 3.0 * cell.num_train * seen + 4.0 * cell.num_train * q
    return 10.0 * q**2 + 3.0 * latent**2 * min(len(cell.widths), 10) + 4.0 * cell.num_features * latent


def _solve(cell: Cell, width: int) -> float:
    """Decompositions of a width, besides the features."""
    n = cell.num_train
    smaller = min(n, width)
    with_ridge = 3.0 * smaller**2 + 2.0 * n * width if any(ridge != 0 for ridge in cell.ridge) else 0.0
    if all(ridge != 0 for ridge in cell.ridge):
        return with_ridge
    # one QR of the first n columns serves every width up to n
    return max(with_ridge, 8.0 * min(n, cell.num_features) ** 2 if width <= n else 5.0 * n**2)


def _num_outputs(cell: Cell, hmm: LinearGaussianConfig) -> int:
    if cell.task.name is TaskName.downstream_label:
        return cell.task.num_outputs
    return cell.num_features if cell.task.name is TaskName.next_token else hmm.state_dim or cell.num_features


def _discrete(cell: Cell, hmm: DiscreteConfig) -> float:
    n, d = cell.num_train, cell.num_features
    num_states = hmm.num_states
    num_sequences = max(n, cell.num_test or 0, min(_FILTERED, cell.population_sequences))
    tables = 4.0 * num_states**2 + 3.0 * num_states * hmm.num_tokens
    # the tables' rows are gathered for every sequence
    drawn = num_sequences * (1.6 * max(num_states, hmm.num_tokens) + 5.0 * cell.context_length)
    solved = 4.0 * n * d + 10.0 * cell.widths[-1] ** 2
    return tables + max(drawn, num_sequences * (num_states + d) + solved)


def _sizes(cell: Cell) -> str:
    if isinstance(cell.hmm, DiscreteConfig):
        return f"{cell.hmm.num_states} states and {cell.hmm.num_tokens} tokens"
    state = "" if cell.hmm.state_dim is None else f", a state of {cell.hmm.state_dim}"
    return f"{cell.num_features} features{state}"
