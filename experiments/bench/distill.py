"""`lab bench distill`: one step of stage 1 against the public recipe's implementation.

Loss and gradients are compared first. The public recipe materialises T x T attention weights and keeps the graphs of
all layers for one backward pass. On a CPU its state-space operator runs in torch, either token by token (the reference
that its kernels are tested against) or in chunks (the listing in the Mamba-2 paper). Ours must be faster than the
former; with chunks, at HoVLE's widths, most of a step is matrix products of the frozen teacher, which are unavoidable.
Ours must use less memory than both.
"""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lab.core.products import current as products
from lab.core.products.implementations import TORCH
from lab.core.ssd.chunked import native
from lab.experiments.bench.distill_memory import CANDIDATES, OURS, RECURRENCE, StepPeak, peak_memory
from lab.experiments.bench.distill_problem import Exact, StageOne, Step, StepSetting
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Row
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.rates import MachinePeak, Work
from lab.experiments.bench.shares import share_findings
from lab.experiments.bench.train_operations import training_operations

DISTRIBUTIONS = ("numpy", "torch")

_REQUIRED_RATIO = 3.0
# of the FMA peak, operations as executed: by case, where products are large enough
_PEAK_SHARES = {"HoVLE's widths": 0.7}
# a few repeats of candidates that take ten seconds
_BUDGET_S = 45.0
# relative to the largest entry of the loss or gradient: float32, sums over a thousand tokens
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of the benchmark.

    Attributes:
        settings: by name of the case.
        warm_up: warm-up step of the processes that measure memory.
        is_judged: whether results are checked against requirements.
    """

    settings: dict[str, StepSetting]
    warm_up: StepSetting
    is_judged: bool


_SMALL = {
    "HoVLE's widths": StepSetting(teacher="hovle_tiny", num_layers=2, batch_size=1, num_tokens=64),
    "tiny teacher": StepSetting(teacher="hovle_tiny", num_layers=1, batch_size=2),
}
_FULL = Plan(
    settings={
        "HoVLE's widths": StepSetting(teacher="hovle_2p6b", num_layers=4, batch_size=1, num_tokens=1024),
        "tiny teacher": StepSetting(teacher="hovle_tiny", num_layers=6, batch_size=32),
    },
    warm_up=_SMALL["HoVLE's widths"],
    is_judged=True,
)
_QUICK = Plan(settings=_SMALL, warm_up=_SMALL["HoVLE's widths"], is_judged=False)


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Measure memory, yield a case for each size, and conclude."""
    plan = _QUICK if quick else _FULL
    # first, while this process is still small: the largest of them takes 10 GB
    peaks = {
        name: [peak_memory(candidate, setting, plan.warm_up) for candidate in CANDIDATES]
        for name, setting in plan.settings.items()
    }
    peak = measure_peak(quick=quick)
    findings, chosen = [], {}
    # ours as `lab distill` computes it, with the products that are fastest here; the recipe has torch's
    with products.using(products.AUTO):
        for name, setting in plan.settings.items():
            problem = StageOne.of(setting)
            chosen[name] = products.settle(problem.teacher, [torch.float32])
            ours, *_ = yield _case(name, setting, problem, peak=peak, is_judged=plan.is_judged)
            at_least = _PEAK_SHARES.get(name) if plan.is_judged else None
            findings += share_findings(name, ours, peak, at_least=at_least)
            del problem
    findings += [finding for name, found in peaks.items() for finding in _findings(name, found, plan.is_judged)]
    facts: dict[str, Any] = {
        "plan": asdict(plan),
        "products": chosen,
        "peak_memory": {name: [asdict(peak) for peak in found] for name, found in peaks.items()},
    }
    return Conclusion(findings=findings, facts=facts, peak=peak)


def _case(name: str, setting: StepSetting, problem: StageOne, *, peak: MachinePeak, is_judged: bool) -> Case:
    operations = training_operations(1, problem.teacher, problem.student, problem.batch)
    is_compiled = native.why_not() is None
    exact = Exact(problem)
    ours, *others = (
        Candidate(
            name=candidate,
            run=make(problem) if candidate == OURS else _with_torchs_products(make(problem)),
            difference=exact.difference,
            tolerance=_TOLERANCE,
            unit="of the largest",
            required_ratio=_REQUIRED_RATIO if is_judged and candidate == RECURRENCE else None,
            work=Work(
                flops=operations.paper,
                executed_flops=operations.executed if is_compiled and candidate == OURS else None,
            ),
        )
        for candidate, make in CANDIDATES.items()
    )
    return Case(name=name, setting=str(setting), ours=ours, others=others, peak=peak, budget_s=_BUDGET_S)


def _with_torchs_products(step: Step) -> Step:
    def run() -> Sequence[Tensor]:
        with products.using(TORCH.name):
            return step()

    return run


def _findings(case: str, peaks: Sequence[StepPeak], is_judged: bool) -> list[Finding]:
    """Memory of each candidate relative to ours, above the part common to all."""
    ours, *others = peaks
    found = []
    for peak in others:
        is_known = not ours.failure and not peak.failure
        found.append(
            Finding(
                name=f"peak memory over ours, {case}, {peak.candidate}",
                value=peak.above_bytes / ours.above_bytes if is_known else None,
                at_least=_REQUIRED_RATIO if is_judged else None,
                note=f"{_megabytes(peak.above_bytes)} against {_megabytes(ours.above_bytes)}, above "
                f"{_megabytes(ours.fixed_bytes)} of weights, batch and gradients"
                if is_known
                else ours.failure or peak.failure,
            )
        )
    return found


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
