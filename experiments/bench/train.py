"""`lab bench train`: the training loop of each stage, with all that is around its steps, beside the bare steps.

What starts once for a training, the process that makes batches and the tracker's, is started before anything is timed.
All candidates take the same steps from the same weights on the same batches, and end with the same losses. Bare steps
have their batches already; the loop has them from the process of `loader=process`, and records every step; the last
candidate passes the rows on to a tracker too. Checkpoints are timed by themselves, and counted as often as a recipe
writes them; validations are not part of it.
"""

import tempfile
from collections.abc import Generator
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lab.core.products import current as products
from lab.core.ssd.chunked import native
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Missing, Row
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.rates import MachinePeak, Work
from lab.experiments.bench.shares import share_findings
from lab.experiments.bench.train_operations import training_operations
from lab.experiments.bench.train_problem import Training
from lab.experiments.bench.train_setting import SMOLLM2, TrainPlan, TrainSetting
from lab.experiments.distill.config import Recipe
from lab.experiments.distill.loader import Loader

DISTRIBUTIONS = ("numpy", "torch", "tensorboard")

OURS, TRACKED = "lab distill: loader process, recorder", "with a tracker too (tensorboard)"
BARE, INLINE = "bare steps, batches ready", "without the recorder"
_TRACKER = "tensorboard"
_STAGES = (1, 2, 3)
# the same operations on the same numbers
_TOLERANCE = 1e-6
_BUDGET_S = 60.0


_QUICK = TrainPlan(
    settings={
        "HoVLE's widths": TrainSetting(teacher="hovle_tiny", num_layers=2, batch_size=1, steps=2, num_tokens=64),
        "SmolLM2": TrainSetting(teacher=SMOLLM2, num_layers=1, batch_size=1, steps=2, num_tokens=32, vocab_size=512),
        "tiny teacher": TrainSetting(teacher="hovle_tiny", num_layers=1, batch_size=2, steps=2),
    },
    stages={"HoVLE's widths": _STAGES, "SmolLM2": (3,), "tiny teacher": (3,)},
)
_FULL = TrainPlan(
    settings={
        "HoVLE's widths": TrainSetting(
            teacher="hovle_2p6b", num_layers=4, batch_size=1, steps=2, num_tokens=1024, vocab_size=32768
        ),
        "SmolLM2": TrainSetting(teacher=SMOLLM2, num_layers=8, batch_size=2, steps=3, num_tokens=512),
        "tiny teacher": TrainSetting(teacher="hovle_tiny", num_layers=6, batch_size=32, steps=8),
    },
    stages={"HoVLE's widths": _STAGES, "SmolLM2": _STAGES, "tiny teacher": _STAGES},
)


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Yield a case for each stage at each size, and conclude."""
    plan = _QUICK if quick else _FULL
    peak = measure_peak(quick=quick)
    findings: list[Finding] = []
    chosen: dict[str, Any] = {}
    with products.using(products.AUTO), tempfile.TemporaryDirectory() as folder:
        for name, setting in plan.settings.items():
            for stage in plan.stages[name]:
                place = Path(folder) / f"{len(chosen)}-{stage}"
                with Training(setting, stage, place) as problem:
                    chosen[name] = products.settle(problem.teacher, [torch.float32])
                    case = f"{name}, stage {stage}"
                    rows = yield _case(case, problem, peak)
                    findings += _findings(case, problem, rows, peak)
                del problem
    facts = {"plan": asdict(plan), "products": chosen, "processes": 1}
    return Conclusion(findings=findings, facts=facts, peak=peak)


def _case(name: str, problem: Training, peak: MachinePeak) -> Case:
    reference = problem.bare()
    operations = training_operations(problem.stage, problem.teacher, problem.student, problem.batch)
    steps = problem.setting.steps
    is_compiled = native.why_not() is None
    # batches of a task differ a little in length: as many operations as the first one each
    work = Work(flops=steps * operations.paper, executed_flops=steps * operations.executed if is_compiled else None)

    def difference(losses: list[float]) -> float:
        return max(abs(ours / theirs - 1) for ours, theirs in zip(losses, reference, strict=True))

    candidate = partial(Candidate, difference=difference, tolerance=_TOLERANCE, unit="relative", work=work)
    with_process = partial(problem.loop, Loader.process)
    tracked: Candidate | Missing = Missing(TRACKED, "pip install 'ssm-lab[track]'")
    if find_spec(_TRACKER) is not None:
        tracked = candidate(name=TRACKED, run=partial(with_process, is_recorded=True, sinks=[_TRACKER]))
    return Case(
        name=name,
        setting=str(problem.setting),
        ours=candidate(name=OURS, run=partial(with_process, is_recorded=True)),
        others=[
            tracked,
            candidate(name=INLINE, run=partial(with_process, is_recorded=False)),
            candidate(name=BARE, run=problem.bare),
        ],
        peak=peak,
        budget_s=_BUDGET_S,
    )


def _findings(case: str, problem: Training, rows: list[Row], peak: MachinePeak) -> list[Finding]:
    times = {row.candidate: row.median_s for row in rows}
    ours = times[OURS]
    if ours is None:
        return []
    step_s = ours / problem.setting.steps
    checkpoint_s = problem.seconds_of_a_checkpoint()
    every = Recipe().checkpoint_every
    found = [
        Finding(name=f"tokens, {case}", value=problem.num_tokens / ours, unit="per second", note="of the loop"),
        *share_findings(case, rows[0], peak, at_least=None),
        Finding(
            name=f"share that steps wait for data, {case}", value=median(problem.waits), note="measured in the loop"
        ),
        Finding(name=f"share of the recorder, {case}", value=median(problem.recordings), note="measured in the loop"),
        Finding(
            name=f"share of checkpoints, {case}",
            value=checkpoint_s / (checkpoint_s + every * step_s),
            note=f"{1e3 * checkpoint_s:.3g} ms each, every {every} steps",
        ),
    ]
    bare = times.get(BARE)
    if bare is not None:
        note = "medians of the loop and of bare steps: loader process, recorder and the loop itself"
        found.append(Finding(name=f"share of all but the steps, {case}", value=1 - bare / ours, note=note))
    tracked = times.get(TRACKED)
    if tracked is not None:
        note = "medians of the loop with it and without it"
        found.append(Finding(name=f"share of the tracker, {case}", value=1 - ours / tracked, note=note))
    return found
