"""`lab bench processes`: the training loop shared by two processes, beside one process that takes the same steps alone.

Each process has one thread. A step has two batches: one process accumulates them, of two each takes one, so that both
read the same tokens and end with the same losses, up to the order of sums. What two processes exchange is part of the
time; two that take half of each step and exchange nothing show what the machine leaves of twice the speed, since its
cores share caches and memory. Processes are started, and have opened model and data, before anything is timed.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace

from lab.core.parallel.config import Strategy
from lab.core.resources import usable_cores
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Row
from lab.experiments.bench.process_group import ProcessGroup
from lab.experiments.bench.train_setting import SMOLLM2, TrainPlan, TrainSetting

DISTRIBUTIONS = ("numpy", "torch")

DDP, FSDP, ONE = "two processes, DDP", "two processes, FSDP2", "one process"
APART = "two processes that exchange nothing"
_GROUPS = {DDP: (2, Strategy.ddp), FSDP: (2, Strategy.fsdp), ONE: (1, Strategy.none)}
# what is asked of two processes
_TIMES = 1.8
# float32 sums in another order, some steps later
_TOLERANCE = 1e-4
_BUDGET_S = 60.0


_QUICK = TrainPlan(
    settings={
        "SmolLM2": TrainSetting(
            teacher=SMOLLM2, num_layers=1, batch_size=1, steps=2, accumulation=2, num_tokens=32, vocab_size=512
        ),
    },
    stages={"SmolLM2": (3,)},
)
_FULL = TrainPlan(
    settings={
        "HoVLE's widths": TrainSetting(
            teacher="hovle_2p6b",
            num_layers=2,
            batch_size=1,
            steps=2,
            accumulation=2,
            num_tokens=1024,
            vocab_size=32768,
        ),
        "SmolLM2": TrainSetting(teacher=SMOLLM2, num_layers=8, batch_size=2, steps=2, accumulation=2, num_tokens=512),
        "tiny teacher": TrainSetting(teacher="hovle_tiny", num_layers=6, batch_size=32, steps=4, accumulation=2),
    },
    stages={"HoVLE's widths": (1, 2, 3), "SmolLM2": (3,), "tiny teacher": (1, 2, 3)},
)


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Yield a case for each stage at each size, and conclude."""
    plan = _QUICK if quick else _FULL
    findings: list[Finding] = []
    for name, setting in plan.settings.items():
        for stage in plan.stages[name]:
            case = f"{name}, stage {stage}"
            half = replace(setting, accumulation=setting.accumulation // 2)
            with ExitStack() as stack:
                groups = {
                    candidate: stack.enter_context(ProcessGroup(setting, stage, size=size, strategy=strategy))
                    for candidate, (size, strategy) in _GROUPS.items()
                }
                apart = [stack.enter_context(ProcessGroup(half, stage, size=1)) for _ in range(2)]
                for group in (*groups.values(), *apart):
                    group.ready()
                rows = yield _case(case, setting, groups, apart)
            findings += _findings(case, rows, is_judged=not quick and usable_cores() > 1)
    return Conclusion(findings=findings, facts={"plan": asdict(plan), "cores": usable_cores()})


def _case(name: str, setting: TrainSetting, groups: Mapping[str, ProcessGroup], apart: Sequence[ProcessGroup]) -> Case:
    def candidate(name: str, losses: Callable[[], list[float]], reference: list[float]) -> Candidate:
        def difference(found: list[float]) -> float:
            return max(abs(ours / theirs - 1) for ours, theirs in zip(found, reference, strict=True))

        return Candidate(name=name, run=losses, difference=difference, tolerance=_TOLERANCE, unit="relative")

    def losses_apart() -> list[float]:
        for group in apart:
            group.begin()
        return [loss for group in apart for loss in group.ended()]

    reference = groups[ONE].losses()
    ours, *others = (candidate(group, groups[group].losses, reference) for group in (DDP, FSDP, ONE))
    # both take the same steps
    bound = candidate(APART, losses_apart, 2 * apart[0].losses())
    words = f"{setting}; a thread in each process"
    return Case(name=name, setting=words, ours=ours, others=[*others, bound], budget_s=_BUDGET_S)


def _findings(case: str, rows: list[Row], *, is_judged: bool) -> list[Finding]:
    """How many times as fast two processes are as one."""
    medians = {row.candidate: row.median_s for row in rows}
    times = {name: seconds for name, seconds in medians.items() if seconds is not None}
    if ONE not in times or APART not in times:
        return []
    note = f"of medians; two that exchange nothing: {times[ONE] / times[APART]:.3g}"
    return [
        Finding(
            name=f"times one process, {name}, {case}",
            value=times[ONE] / times[name],
            at_least=_TIMES if is_judged else None,
            note=note,
        )
        for name in (DDP, FSDP)
        if name in times
    ]
