"""`lab bench loader`: what steps wait for large photographs, and what packing saves on conversations of all lengths.

Photographs are written into a temporary folder, and read in every call: decoded, turned, cut into at most twelve tiles
of 448 pixels and a thumbnail. The same steps are taken with batches made between them, and ahead by one process or two.
Conversations have 20 to 8,192 tokens, as many between 20 and 40 as between 4,096 and 8,192; the same batches are
packed and padded, and losses, which leave padding out, agree.
"""

import tempfile
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Row
from lab.experiments.bench.loader_problem import (
    LONGEST,
    PHOTOGRAPH,
    TeacherSize,
    of_conversations,
    of_photographs,
    write_photographs,
)
from lab.experiments.bench.train_problem import Training
from lab.experiments.bench.train_setting import TrainSetting
from lab.experiments.distill.loader import Loader
from lab.experiments.distill.loss_mask import LossMask

DISTRIBUTIONS = ("numpy", "pillow", "torch")

TWO, ONE, INLINE = "two loader processes", "one loader process", "between the steps"
PACKED, PADDED = "packed", "padded"
_PROCESSES = {TWO: 2, ONE: 1}
_TEACHER = "hovle_2p6b"
# the same operations on the same numbers
_SAME = 1e-6
# sums over other tiles of the same positions, after some steps of an optimizer
_ROUNDING = 1e-3
_BUDGET_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of the benchmark.

    Attributes:
        teacher: of both problems.
        photograph: width and height in pixels.
        max_tiles: of a photograph.
        pictures: batches of one, each a step.
        longest: tokens of the longest conversation.
        conversations: samples of a batch, and batches.
    """

    teacher: TeacherSize
    photograph: tuple[int, int]
    max_tiles: int
    pictures: int
    longest: int
    conversations: tuple[int, int]


_QUICK = Plan(
    teacher=TeacherSize(num_embedding=1, num_llm=1, hidden_size=128),
    photograph=(400, 300),
    max_tiles=1,
    pictures=4,
    longest=256,
    conversations=(4, 2),
)
_FULL = Plan(
    teacher=TeacherSize(num_embedding=1, num_llm=2, hidden_size=256),
    photograph=PHOTOGRAPH,
    max_tiles=12,
    pictures=4,
    longest=LONGEST,
    conversations=(8, 2),
)


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Yield the case of photographs and that of conversations, and conclude."""
    plan = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        findings = yield from _photographs(plan, folder)
        findings += yield from _conversations(plan, folder)
    return Conclusion(findings=findings, facts={"plan": asdict(plan)})


def _photographs(plan: Plan, folder: Path) -> Generator[Case, list[Row], list[Finding]]:
    path = write_photographs(folder / "photographs", number=plan.pictures, size=plan.photograph)
    opened = of_photographs(path, plan.teacher, max_tiles=plan.max_tiles)
    setting = TrainSetting(teacher=_TEACHER, num_layers=plan.teacher.num_llm, batch_size=1, steps=plan.pictures)
    with Training(setting, 1, folder / "pictures", opened) as problem:
        waits: dict[str, list[float]] = {}

        def run(candidate: str) -> list[float]:
            loader = Loader.process if candidate in _PROCESSES else Loader.inline
            losses = problem.loop(loader, is_recorded=False, processes=_PROCESSES.get(candidate, 1))
            waits.setdefault(candidate, []).append(problem.waits[-1])
            return losses

        megapixels = plan.photograph[0] * plan.photograph[1] / 1e6
        words = (
            f"stage 1, float32, {plan.pictures} steps of one JPEG of {megapixels:.3g} megapixels in at most "
            f"{plan.max_tiles + 1} tiles, {_words(plan.teacher)}"
        )
        rows = yield _case(
            "photographs", words, problem.bare(), {name: partial(run, name) for name in (TWO, ONE, INLINE)}, _SAME
        )
        return [
            Finding(
                name=f"share that steps wait for data, {name}",
                value=median(found),
                note="measured in the loop; torch has a thread on each core besides",
            )
            for name, found in waits.items()
        ] + _rates("photographs", rows, plan.pictures, "pictures")


def _conversations(plan: Plan, folder: Path) -> Generator[Case, list[Row], list[Finding]]:
    opened = of_conversations(plan.teacher, longest=plan.longest)
    batch_size, num_batches = plan.conversations
    padded = TrainSetting(
        teacher=_TEACHER,
        num_layers=plan.teacher.num_llm,
        batch_size=batch_size,
        steps=num_batches,
        loss_mask=LossMask.non_padding.value,
    )
    packed = replace(padded, is_packed=True)
    with (
        Training(padded, 3, folder / PADDED, opened) as theirs,
        Training(packed, 3, folder / PACKED, opened) as ours,
    ):
        words = (
            f"stage 3, float32, {num_batches} batches of {batch_size} conversations of 20 to {plan.longest:,} tokens, "
            f"{_words(plan.teacher)}"
        )
        reference = theirs.bare()
        rows = yield _case("conversations", words, reference, {PACKED: ours.bare, PADDED: theirs.bare}, _ROUNDING)
        wasted = {PACKED: ours.wasted, PADDED: theirs.wasted}
        return [
            *_rates("conversations", rows, ours.num_tokens, "tokens"),
            *(
                Finding(
                    name=f"share of wasted positions, {name}",
                    value=share,
                    # what is asked of packing
                    at_most=0.1 if name == PACKED else None,
                    note="padding",
                )
                for name, share in wasted.items()
            ),
        ]


def _case(
    name: str, words: str, reference: list[float], runs: dict[str, Callable[[], list[float]]], tolerance: float
) -> Case:
    def difference(losses: list[float]) -> float:
        return max(abs(ours / theirs - 1) for ours, theirs in zip(losses, reference, strict=True))

    ours, *others = (
        Candidate(name=candidate, run=run, difference=difference, tolerance=tolerance, unit="relative")
        for candidate, run in runs.items()
    )
    return Case(name=name, setting=words, ours=ours, others=others, budget_s=_BUDGET_S)


def _rates(case: str, rows: list[Row], number: int, what: str) -> list[Finding]:
    """How many of something each candidate reads in a second."""
    return [
        Finding(name=f"{what}, {case}, {row.candidate}", value=number / row.median_s, unit="per second")
        for row in rows
        if row.median_s is not None
    ]


def _words(size: TeacherSize) -> str:
    return f"HoVLE with {size.num_embedding} + {size.num_llm} layers of width {size.hidden_size}"
