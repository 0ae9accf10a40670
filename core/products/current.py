"""Which implementations this process uses: torch's, until `settle` has chosen for a model or another was asked for."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import get_num_threads, nn

from lab.core.errors import BackendError, ConfigError
from lab.core.products.cache import recall_or_measure, runs_here
from lab.core.products.choice import (
    LARGE,
    ROW_CLASSES,
    SHAPES,
    Cell,
    Table,
    described,
    from_words,
    measured,
    only,
    row_class,
    shape_of,
)
from lab.core.products.implementations import IMPLEMENTATIONS, TORCH, Implementation, Operation

AUTO = "auto"
NAMES = (AUTO, *IMPLEMENTATIONS)


class Plan(NamedTuple):
    """The implementations of products of one shape.

    Attributes:
        forward: of the output.
        input_gradient: of the input's gradient.
        weight_gradient: of the weight's gradient.
    """

    forward: Implementation
    input_gradient: Implementation
    weight_gradient: Implementation


TORCHS = Plan(TORCH, TORCH, TORCH)
# from here on, all numbers of rows are of the last class
MOST_ROWS = ROW_CLASSES[-1][0]


class State:
    """What is chosen at present; one for the process, `STATE`.

    Attributes:
        is_torch: whether every product is torch's.
        forced: the implementation that was asked for by name; None for a choice.
        plans: by dtype and number of threads, a plan for each of `SHAPES`; without those that are torch's throughout.
        differing: by number of threads, for numbers of rows up to those of the last class, whether another
            implementation than torch's is chosen for some dtype.
    """

    def __init__(self, name: str = AUTO) -> None:
        named = IMPLEMENTATIONS.get(name)
        self.name = name
        self.forced = None if named is TORCH else named
        self.is_torch = self.forced is None
        self.plans: dict[tuple[torch.dtype, int], tuple[Plan, ...]] = {}
        self.differing: dict[int, list[bool]] = {}

    def take(self, dtype: torch.dtype, table: Table) -> None:
        """Use a table for products of a dtype with the present number of threads."""
        threads = get_num_threads()
        plans = tuple(Plan(*(table[Cell(operation, *shape)] for operation in Operation)) for shape in SHAPES)
        if set(plans) == {TORCHS}:
            return
        differing = {index for (index, _), plan in zip(SHAPES, plans, strict=True) if plan != TORCHS}
        before = self.differing.get(threads, [False] * (MOST_ROWS + 1))
        self.differing[threads] = [was or row_class(rows) in differing for rows, was in enumerate(before)]
        self.plans[dtype, threads] = plans
        self.is_torch = False

    def differs(self, rows: int) -> bool:
        """Whether products of so many rows are other than torch's for some dtype; a fraction of a microsecond."""
        if self.forced is not None:
            return True
        here = self.differing.get(get_num_threads())
        return here is not None and here[rows if rows < MOST_ROWS else MOST_ROWS]

    def plan_of(self, dtype: torch.dtype, rows: int, numbers: int) -> Plan:
        """The implementations for products of a dtype, so many rows and a weight of so many numbers, on the CPU.

        Raises:
            BackendError: if the implementation that was asked for does not compute this dtype.
        """
        key = dtype, get_num_threads()
        if self.forced is not None and key not in self.plans:
            refuse(self.name, torch.device("cpu"), [dtype])
            self.take(dtype, only(self.forced))
        plans = self.plans.get(key)
        return TORCHS if plans is None else plans[shape_of(rows, numbers)]


STATE = State()


@contextmanager
def using(name: str) -> Iterator[None]:
    """Compute products in this process as a configuration says, until the context is left.

    Args:
        name: one of `NAMES`; auto is torch until `settle` chooses.
    """
    global STATE
    before = STATE
    STATE = State(name)
    try:
        yield
    finally:
        STATE = before


def settle(
    model: nn.Module, dtypes: Iterable[torch.dtype], before: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Choose for the products of a model, by a measurement if the machine has none yet; small models need none.

    Args:
        model: on its device.
        dtypes: of its products.
        before: what an earlier attempt at the same run returned: it is chosen again where it can run, so that the run
            does not depend on when the machine was measured.

    Returns:
        What computes the products of each dtype, in one line: to be recorded.

    Raises:
        BackendError: if the implementation that was asked for cannot run.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 2 and parameter.is_cpu]
    is_large = any(weight.numel() >= LARGE for weight in weights)
    chosen = {}
    for dtype in dtypes:
        table: Table = only(TORCH)
        if STATE.forced is not None and weights:
            refuse(STATE.name, torch.device("cpu"), [dtype])
            table = only(STATE.forced)
        elif STATE.name == AUTO and is_large:
            recorded = from_words(str((before or {}).get(_name(dtype), "")))
            if recorded is not None and runs_here(recorded, dtype):
                table = recorded
            else:
                table = recall_or_measure(dtype, get_num_threads(), measured)
            STATE.take(dtype, table)
        chosen[_name(dtype)] = described(table)
    return chosen


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def refuse_unknown(name: str) -> None:
    """Refuse a name that is none of `NAMES`.

    Raises:
        ConfigError: with the names.
    """
    if name not in NAMES:
        raise ConfigError(f"products={name}: choose from {', '.join(NAMES)}")


def refuse(name: str, device: torch.device, dtypes: Iterable[torch.dtype]) -> None:
    """Refuse an implementation that cannot be used for a model.

    Args:
        name: one of `NAMES`.
        device: of the model.
        dtypes: of its products.

    Raises:
        BackendError: if it cannot compute one of the dtypes on this device.
    """
    if name == AUTO:
        return
    for dtype in dtypes:
        reason = IMPLEMENTATIONS[name].why_not(device, dtype)
        if reason is not None:
            raise BackendError(f"products={name} cannot run on {device}: {reason}; use products=auto")
