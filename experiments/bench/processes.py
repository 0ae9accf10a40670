"""`lab bench processes`: the training loop shared by two processes, beside one process that takes the same steps alone.

Each process has one thread. A step has two batches: one process accumulates them, of two each takes one, so that both
read the same tokens and end with the same losses, up to the order of sums. What two processes exchange is part of the
time. Processes are started, and have opened model and data, before anything is timed.
"""

from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from lab.core.parallel.config import Strategy
from lab.core.resources import usable_cores
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Row
from lab.experiments.bench.process_group import ProcessGroup
from lab.experiments.bench.train_setting import SMOLLM2, TrainSetting

DISTRIBUTIONS = ("numpy", "torch")

DDP, FSDP, ONE = "two processes, DDP", "two processes, FSDP2", "one process"
_GROUPS = {DDP: (2, Strategy.ddp), FSDP: (2, Strategy.fsdp), ONE: (1, Strategy.none)}
# what is asked of two processes
_TIMES = 1.8
# float32 sums in another order, some steps later
_TOLERANCE = 1e-4
_BUDGET_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of the benchmark.

    Attributes:
        settings: by name.
        stages: of each, by the same name.
    """

    settings: dict[str, TrainSetting]
    stages: dict[str, tuple[int, ...]]


_QUICK = Plan(
    settings={
        "SmolLM2": TrainSetting(
            teacher=SMOLLM2, num_layers=1, batch_size=1, steps=2, accumulation=2, num_tokens=32, vocab_size=512
        ),
    },
    stages={"SmolLM2": (3,)},
)
_FULL = Plan(
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
            with ExitStack() as stack:
                groups = {
                    candidate: stack.enter_context(ProcessGroup(setting, stage, size=size, strategy=strategy))
                    for candidate, (size, strategy) in _GROUPS.items()
                }
                for group in groups.values():
                    group.ready()
                rows = yield _case(case, setting, groups)
            findings += _findings(case, rows, is_judged=not quick and usable_cores() > 1)
    return Conclusion(findings=findings, facts={"plan": asdict(plan), "cores": usable_cores()})


def _case(name: str, setting: TrainSetting, groups: dict[str, ProcessGroup]) -> Case:
    reference = groups[ONE].losses()

    def difference(losses: list[float]) -> float:
        return max(abs(ours / theirs - 1) for ours, theirs in zip(losses, reference, strict=True))

    def candidate(group: str) -> Candidate:
        return Candidate(
            name=group, run=groups[group].losses, difference=difference, tolerance=_TOLERANCE, unit="relative"
        )

    return Case(
        name=name,
        setting=f"{setting}; a thread in each process",
        ours=candidate(DDP),
        others=[candidate(FSDP), candidate(ONE)],
        budget_s=_BUDGET_S,
    )


def _findings(case: str, rows: list[Row], *, is_judged: bool) -> list[Finding]:
    """How many times as fast two processes are as one."""
    times = {row.candidate: row.median_s for row in rows}
    one = times[ONE]
    return [
        Finding(
            name=f"times one process, {name}, {case}",
            value=one / seconds,
            at_least=_TIMES if is_judged else None,
            note="of medians" if usable_cores() > 1 else "of medians; one core for both",
        )
        for name in (DDP, FSDP)
        if one is not None and (seconds := times[name]) is not None
    ]
