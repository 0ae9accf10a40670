"""Peak memory of one candidate of `lab bench distill`, in a process of its own."""

import json
import mmap
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from lab.core.errors import RunError
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
    """What one step needs at its highest.

    Attributes:
        candidate: whose step.
        fixed_bytes: of weights, batch and gradients, which every candidate has alike.
        above_bytes: all other memory at the highest point.
        failure: why it could not be found; empty if it was.
    """

    candidate: str
    fixed_bytes: int = 0
    above_bytes: int = 0
    failure: str = ""


def peak_memory(candidate: str, setting: StepSetting, warm_up: StepSetting) -> StepPeak:
    """Start a process, let it take the step once, and read what it reports.

    Args:
        candidate: one of `CANDIDATES`.
        setting: of the step.
        warm_up: of a step before, which loads code and starts threads.
    """
    request = {"candidate": candidate, "setting": asdict(setting), "warm_up": asdict(warm_up)}
    try:
        fixed_bytes, above_bytes = ask_process("lab.experiments.bench.distill_memory", request)
    except RunError as error:
        return StepPeak(candidate=candidate, failure=str(error))
    return StepPeak(candidate=candidate, fixed_bytes=fixed_bytes, above_bytes=above_bytes)


def main(request: str) -> None:
    """The process itself: prints the bytes of weights, batch and gradients, and those above them."""
    asked = json.loads(request)
    make = CANDIDATES[asked["candidate"]]
    make(StageOne.of(StepSetting(**asked["warm_up"])))()
    problem = StageOne.of(StepSetting(**asked["setting"]))
    found, peak_bytes = peak_of(make(problem), "cpu")
    gradient_bytes = size_of(found)
    batch = problem.batch
    inputs = [*problem.weights, batch.pixel_values, batch.embedding_ids, batch.llm_ids]
    # a small step may find all that it needs among what the first one left; a page is the least that can be told
    above_bytes = max(peak_bytes - gradient_bytes, mmap.PAGESIZE)
    print(json.dumps([size_of(inputs) + gradient_bytes, above_bytes]))


if __name__ == "__main__":
    main(sys.argv[1])
