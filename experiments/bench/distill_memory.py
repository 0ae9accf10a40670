"""Peak memory of one candidate of `lab bench distill`, in a separate process."""

import json
import mmap
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from lab.core.errors import RunError
from lab.core.products import current as products
from lab.core.products.implementations import TORCH
from lab.experiments.bench.distill_problem import StageOne, Step, StepSetting
from lab.experiments.bench.distill_recipe import in_chunks, step_by_step
from lab.experiments.bench.memory import ask_process, peak_of, size_of

OURS = "lab distill"
RECURRENCE = "recipe, token by token"
CHUNKS = "recipe, in chunks"

CANDIDATES: dict[str, Callable[[StageOne], Step]] = {
    OURS: lambda problem: problem.ours(),
    RECURRENCE: lambda problem: problem.recipes(step_by_step),
    CHUNKS: lambda problem: problem.recipes(in_chunks),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPeak:
    """Peak memory of one step.

    Attributes:
        candidate: its name.
        fixed_bytes: of weights, batch and gradients, the same for every candidate.
        above_bytes: all other memory at the peak.
        failure: why it could not be measured; empty if it was.
    """

    candidate: str
    fixed_bytes: int = 0
    above_bytes: int = 0
    failure: str = ""


def peak_memory(candidate: str, setting: StepSetting, warm_up: StepSetting) -> StepPeak:
    """Start a process that takes the step once, and read its report.

    Args:
        candidate: one of `CANDIDATES`.
        setting: of the step.
        warm_up: of a step before it, which loads code and starts threads.
    """
    request = {"candidate": candidate, "setting": asdict(setting), "warm_up": asdict(warm_up)}
    try:
        fixed_bytes, above_bytes = ask_process("lab.experiments.bench.distill_memory", request)
    except RunError as error:
        return StepPeak(candidate=candidate, failure=str(error))
    return StepPeak(candidate=candidate, fixed_bytes=fixed_bytes, above_bytes=above_bytes)


def main(request: str) -> None:
    """The process: prints the bytes of weights, batch and gradients, and the bytes above them."""
    asked = json.loads(request)
    make = CANDIDATES[asked["candidate"]]
    make(StageOne.of(StepSetting(**asked["warm_up"])))()
    problem = StageOne.of(StepSetting(**asked["setting"]))
    with products.using(products.AUTO if asked["candidate"] == OURS else TORCH.name):
        products.settle(problem.teacher, [torch.float32])
        found, peak_bytes = peak_of(make(problem), "cpu")
    gradient_bytes = size_of(found)
    batch = problem.batch
    inputs = [*problem.weights, batch.pixel_values, batch.embedding_ids, batch.llm_ids]
    # a small step may reuse memory of the warm-up entirely; one page is the smallest measurable amount
    above_bytes = max(peak_bytes - gradient_bytes, mmap.PAGESIZE)
    print(json.dumps([size_of(inputs) + gradient_bytes, above_bytes]))


if __name__ == "__main__":
    main(sys.argv[1])
