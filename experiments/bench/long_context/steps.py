"""One length of `lab bench long-context`: the next token of every model, against reading weights and states once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lab.core.mixers.softmax import KvState
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.steps import Steps
from lab.experiments.bench.accuracy import largest_difference
from lab.experiments.bench.harness import Candidate, Case, Missing
from lab.experiments.bench.long_context import paper
from lab.experiments.bench.long_context.exact import Exact
from lab.experiments.bench.long_context.memory import held_bytes
from lab.experiments.bench.long_context.models import Kind, Models, States, states_of, weight_tensors
from lab.experiments.bench.long_context.paper import PaperSteps, paper_bytes
from lab.experiments.bench.long_context.setting import Setting, in_words
from lab.experiments.bench.rates import MachinePeak, Work
from lab.experiments.bench.streaming import streaming

# of the largest score, from float32 and float64: what is stored is rounded, and torch's layers round after each product
OURS_TOLERANCE = {torch.bfloat16: 1e-3, torch.float32: 1e-4}
PAPER_TOLERANCE = {torch.bfloat16: 5e-2, torch.float32: 1e-3}
# the first token of a sequence is as good as any
_TOKEN = 1


def streaming_name(kind: Kind) -> str:
    """The candidate that reads the bytes of a model's step."""
    return f"weights and states of {kind} read once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of a model and its state at one length.

    Attributes:
        read: weights that a step reads, and the cache.
        updated: states of a recurrence, which a step reads and writes; each byte twice.
        least: what a step has to move by the paper's byte model, with states in the dtype of the weights.
        held: all weights, and the whole state.
        paper: the same in the released code, with its tables and a layer's concatenation; None for students.
    """

    read: int
    updated: int
    least: int
    held: int
    paper: int | None


def sizes_of(kind: Kind, model: LanguageModel, state: DecodingState, num_tokens: int) -> Sizes:
    """What the step of a model moves, and what it holds."""
    weights = sum(tensor.nbytes for tensor in weight_tensors(model))
    caches = sum(layer.num_bytes for layer in state.layers if isinstance(layer, KvState))
    recurrent = [layer.tensors() for layer in state.layers if not isinstance(layer, KvState)]
    updated = 2 * sum(tensor.nbytes for tensors in recurrent for tensor in tensors)
    narrow = 2 * sum(tensors[-1].numel() for tensors in recurrent) * model.dtype.itemsize
    held = held_bytes(model, state)
    return Sizes(
        read=weights + caches,
        updated=updated,
        least=weights + caches + narrow,
        held=held,
        paper=held + paper_bytes(model, num_tokens) if kind is Kind.teacher else None,
    )


def step_case(setting: Setting, models: Models, num_tokens: int, peak: MachinePeak) -> tuple[Case, dict[Kind, Sizes]]:
    """All models after so many tokens, the linear one first, and their sizes."""
    states = states_of(models, num_tokens)
    sizes = {kind: sizes_of(kind, model, states[kind], num_tokens) for kind, model in models.items()}
    token = torch.full((1, 1), _TOKEN)
    exact = Exact(setting.dtype)
    # before any step changes the states
    expected = {kind: exact.step(model, states[kind], token) for kind, model in models.items()}

    def candidate(
        name: str, kind: Kind, run: Callable[[], Tensor], tolerance: Mapping[torch.dtype, float]
    ) -> Candidate:
        return Candidate(
            name=name,
            run=run,
            difference=lambda scores: largest_difference([scores], [expected[kind]]),
            tolerance=tolerance[setting.dtype],
            unit="of the largest",
            work=Work(dtype=setting.precision, read_bytes=sizes[kind].read, updated_bytes=sizes[kind].updated),
        )

    words = f"{setting.num_layers} layers, {setting.precision}; states hold random numbers, no prompt was read"
    words += f"; compared with {exact.name}, one layer at a time"
    # its memory is needed
    del exact
    ours = {
        kind: candidate(str(kind), kind, _again(_program(model, states[kind], token), states, kind), OURS_TOLERANCE)
        for kind, model in models.items()
    }
    others: list[Candidate | Missing] = [ours[kind] for kind in (Kind.hybrid, Kind.teacher) if kind in ours]
    if Kind.teacher in models:
        why_not = PaperSteps.why_not(models[Kind.teacher])
        if why_not is None:
            theirs = PaperSteps(models[Kind.teacher], states[Kind.teacher])
            run = _again(lambda: theirs.logits(token), states, Kind.teacher)
            others.append(candidate(paper.NAME, Kind.teacher, run, PAPER_TOLERANCE))
        else:
            words += f"; without {paper.NAME}: {why_not}"
    for kind, model in models.items():
        arrays = [*weight_tensors(model), *(tensor for layer in states[kind].layers for tensor in layer.tensors())]
        read = streaming(streaming_name(kind), arrays)
        if read is not None:
            others.append(read)
    case = Case(
        name=f"step after {in_words(num_tokens)} tokens",
        setting=words,
        ours=ours[Kind.linear],
        others=others,
        peak=peak,
    )
    return case, sizes


def _program(model: LanguageModel, state: DecodingState, token: Tensor) -> Callable[[], Tensor]:
    steps = Steps(model, state)
    return lambda: steps.logits(Inputs(tokens=token))


def _again(run: Callable[[], Any], states: States, kind: Kind) -> Callable[[], Any]:
    """The same step at every call, as far as states can be put back: a recurrent one goes on, in the same time."""
    lengths = [layer.length for layer in states[kind].layers]

    def again() -> Any:
        for layer, length in zip(states[kind].layers, lengths, strict=True):
            layer.length = length
        return run()

    return again
