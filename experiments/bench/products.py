"""`lab bench products`: what `lab.core.products` chose on this machine against torch, cell by cell.

A cell is a weight, a number of rows, a precision, and the product or one of its gradients. The weights are those of
feed-forward networks, which hold most of a model's. Where torch's product is as fast as the best of the libraries,
there is nothing to win, and only that nothing is lost is required.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from lab.core.products import current as products
from lab.core.products.choice import LARGE
from lab.core.products.implementations import TORCH, Implementation, Operation
from lab.core.products.linear import Linear
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Row
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.products_problem import TOLERANCE, ProductProblem, ProductSetting
from lab.experiments.bench.rates import MachinePeak

DISTRIBUTIONS = ("numpy", "torch", "threadpoolctl")

HOVLE = "HoVLE"
# outputs and inputs of the feed-forward network
WEIGHTS = {HOVLE: (8192, 2048), "SmolLM2-135M": (1536, 576), "tiny teacher": (128, 64)}
ROWS = (1, 4, 8, 16, 256, 1024, 4096)
# rows up to which a product is limited by reading its weight
FEW_ROWS = 16
MANY_ROWS = 256

# Requirements on a CPU: torch's time over ours with many rows of HoVLE's widths, forward and with both gradients; the
# share of the FMA peak there, and that of streaming at one row; and torch's time over ours in any cell.
_FORWARD_RATIO, _TRAINING_RATIO = 2.0, 1.8
_PEAK_SHARE, _STREAMING_SHARE = 0.75, 0.8
_LEAST_RATIO = 0.98
# of the best library's rate, from which on torch is not behind
_NOT_BEHIND = 0.9


@dataclass(frozen=True, slots=True)
class Cell:
    """A model's width, and what is computed."""

    model: str
    setting: ProductSetting

    @property
    def name(self) -> str:
        """Short, a key in the result file."""
        setting = self.setting
        precision = str(setting.dtype).removeprefix("torch.")
        return f"{self.model}, {precision}, {setting.operation.value}, {setting.rows:,} rows"


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Yield a cell at a time, receive the rows of each, and conclude."""
    peak = measure_peak(quick=quick)
    found: dict[Cell, list[Row]] = {}
    # emulated, its large products would take minutes
    dtypes = [torch.float32, *([torch.bfloat16] if has_bfloat16() else [])]
    with products.using(products.AUTO), torch.no_grad():
        # a model with a weight for which it is worth choosing
        model = nn.Linear(1, 1) if quick else nn.Linear(2048, 1024)
        chosen = products.settle(model, dtypes)
        for cell in cells(dtypes, quick=quick, streamed_bytes=peak.streamed_bytes):
            found[cell] = yield product_case(cell, peak)
    findings = conclude(found, peak, is_judged=not quick)
    if torch.bfloat16 not in dtypes:
        findings.append(
            Finding(name="bfloat16", value=None, note="left out: this processor has no instructions for it")
        )
    return Conclusion(findings=findings, facts={"chosen": chosen}, peak=peak)


def has_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]


def cells(dtypes: Sequence[torch.dtype], *, quick: bool, streamed_bytes: int) -> Iterator[Cell]:
    """All cells; only a few rows of the tiny widths if `quick`."""
    weights = {"tiny teacher": WEIGHTS["tiny teacher"]} if quick else WEIGHTS
    for model, (outputs, inputs) in weights.items():
        for dtype in dtypes:
            for operation in Operation:
                for rows in (1, MANY_ROWS) if quick else ROWS:
                    # a small model is in a cache anyway, and a weight's gradient reads no weight
                    is_streamed = (
                        rows <= FEW_ROWS and outputs * inputs >= LARGE and operation is not Operation.weight_gradient
                    )
                    setting = ProductSetting(
                        outputs=outputs,
                        inputs=inputs,
                        rows=rows,
                        operation=operation,
                        dtype=dtype,
                        streamed_bytes=streamed_bytes if is_streamed else 0,
                    )
                    yield Cell(model, setting)


def product_case(cell: Cell, peak: MachinePeak) -> Case:
    """Ours and torch's."""
    setting = cell.setting
    problem = ProductProblem(setting)
    implementation = _chosen(setting)

    def candidate(name: str, layer: type[nn.Linear], gradient: Implementation) -> Candidate:
        is_forward = setting.operation is Operation.forward
        return Candidate(
            name=name,
            run=problem.call_layer(layer) if is_forward else problem.call(gradient.functions[setting.operation]),
            difference=problem.difference,
            tolerance=TOLERANCE[setting.dtype],
            unit="of the largest",
            work=setting.work,
        )

    ours = candidate(_name(implementation), Linear, implementation)
    theirs = candidate("torch", nn.Linear, TORCH)
    return Case(
        name=cell.name,
        setting=f"weight {setting.outputs:,} x {setting.inputs:,}",
        ours=ours,
        others=[theirs],
        peak=peak,
        budget_s=4.0,
        is_brief=True,
    )


def _chosen(setting: ProductSetting) -> Implementation:
    if setting.outputs * setting.inputs < LARGE:
        return TORCH
    plan = products.STATE.plan_of(setting.dtype, setting.rows, setting.outputs * setting.inputs)
    return {
        Operation.forward: plan.forward,
        Operation.input_gradient: plan.input_gradient,
        Operation.weight_gradient: plan.weight_gradient,
    }[setting.operation]


def _name(implementation: Implementation) -> str:
    return f"lab ({implementation.name})"


def conclude(found: dict[Cell, list[Row]], peak: MachinePeak, *, is_judged: bool) -> list[Finding]:
    """The least ratios and shares, and where they were found."""
    many = {
        cell: rows
        for cell, rows in found.items()
        if cell.model == HOVLE and cell.setting.rows >= MANY_ROWS and cell.setting.dtype is torch.float32
    }
    forward = {cell: rows for cell, rows in many.items() if cell.setting.operation is Operation.forward}
    one_row = {
        cell: rows
        for cell, rows in found.items()
        if cell.model == HOVLE and cell.setting.rows == 1 and cell.setting.operation is Operation.forward
    }
    # where torch is chosen, the same function is timed twice: the ratio is noise
    differing = {cell: rows for cell, rows in found.items() if rows[0].candidate != _name(TORCH)}
    behind, how = _is_behind(peak)
    where = f"HoVLE's widths, float32, {MANY_ROWS} rows or more"
    findings = [
        _least(
            "times torch by the least times, any cell that another implementation computes",
            {cell: _ratio(*([min(row.times_s)] for row in (rows[1], rows[0]))) for cell, rows in differing.items()},
            _LEAST_RATIO,
            "what disturbs a product only adds to its time",
        ),
        _least(
            f"times torch, {where}, forward",
            {cell: rows[1].ratio for cell, rows in forward.items()},
            _FORWARD_RATIO if behind else None,
            how,
        ),
        _least(
            f"times torch, {where}, forward and both gradients",
            _training_ratios(many),
            _TRAINING_RATIO if behind else None,
            how,
        ),
        _least(
            f"share of the {peak.basis}, {where}",
            {cell: rows[0].executed_share for cell, rows in many.items()},
            _PEAK_SHARE if peak.flops_per_s else None,
            peak.why_not,
        ),
        _least(
            "share of streaming, HoVLE's widths, one row",
            {cell: rows[0].streaming_share for cell, rows in one_row.items()},
            _STREAMING_SHARE if peak.read_bytes_per_s else None,
            peak.why_not,
        ),
    ]
    return findings if is_judged else [replace(finding, at_least=None) for finding in findings]


def _is_behind(peak: MachinePeak) -> tuple[bool, str]:
    """Whether torch's product is slower than the best library's, in words too."""
    best = peak.best_product
    torchs = next((product.flops_per_s for product in peak.products if product.name.startswith("torch.")), None)
    if best is None or best.flops_per_s is None or torchs is None:
        return True, ""
    share = torchs / best.flops_per_s
    what = f"torch's product is at {share:.0%} of the best library's ({best.name})"
    return share < _NOT_BEHIND, f"{what}: it is not behind on this processor" if share >= _NOT_BEHIND else what


def _training_ratios(many: dict[Cell, list[Row]]) -> dict[Cell, float | None]:
    """Torch's time for all three products over ours, by the cell of the forward product."""
    ratios: dict[Cell, float | None] = {}
    for cell in many:
        if cell.setting.operation is Operation.forward:
            of_rows = [many[replace_operation(cell, operation)] for operation in Operation]
            ours, theirs = ([rows[k].median_s for rows in of_rows] for k in (0, 1))
            ratios[cell] = _ratio(theirs, ours)
    return ratios


def replace_operation(cell: Cell, operation: Operation) -> Cell:
    """The cell of another product of the same layer."""
    return Cell(cell.model, replace(cell.setting, operation=operation))


def _ratio(theirs: Sequence[float | None], ours: Sequence[float | None]) -> float | None:
    if None in theirs or None in ours:
        return None
    return sum(time_s or 0.0 for time_s in theirs) / sum(time_s or 0.0 for time_s in ours)


def _least(name: str, values: dict[Cell, float | None], at_least: float | None, note: str = "") -> Finding:
    """The least value, and its cell; not found if a cell has none."""
    known = {cell: value for cell, value in values.items() if value is not None}
    if not known or len(known) < len(values):
        return Finding(name=name, value=None, at_least=at_least, note=note)
    cell = min(known, key=known.__getitem__)
    where = f"the least of {len(known)}: {cell.name}"
    return Finding(name=name, value=known[cell], at_least=at_least, note=f"{where}; {note}" if note else where)
