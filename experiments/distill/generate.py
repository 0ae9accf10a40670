"""`lab generate`: stream text from a teacher or a student, and report speed and memory."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lab.core.errors import ConfigError
from lab.core.models.decoder import LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.folder import Precision
from lab.core.models.generation import SamplingConfig, TextStream, allocate, generate, longest_answer
from lab.core.models.steps import Steps
from lab.core.products import current
from lab.core.resources import refuse_too_many_threads, usable_cores
from lab.core.runs.atomic_files import refuse_no_file, write_atomically
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.load import OpenedModel, open_model
from lab.experiments.distill.sources import StudentSelector
from lab.experiments.distill.teacher import device_of


@dataclass(frozen=True, slots=True)
class Memory:
    """Decoding memory of the layers of one kind.

    Attributes:
        kind: of the mixers.
        num_layers: number of layers with this mixer.
        num_bytes: allocated for the prompt and the longest allowed answer.
    """

    kind: str
    num_layers: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """Result and cost of a generation.

    Attributes:
        text: the answer.
        stopped_at: end of turn, max-new-tokens, or the length that the model was trained on.
        num_prompt_tokens: including those of images.
        num_tiles: of all images.
        num_new_tokens: including the end of turn.
        prompt_s: time from the prompt to the first token.
        tokens_per_s: speed after the first token; None if there was only one.
        steps: what computed the tokens after the first: the compiled program, or torch, and why.
        memory: by kind of layer.
    """

    text: str
    stopped_at: str
    num_prompt_tokens: int
    num_tiles: int
    num_new_tokens: int
    prompt_s: float
    tokens_per_s: float | None
    steps: str
    memory: tuple[Memory, ...]

    def line(self) -> str:
        """Everything except the text."""
        tiles = f", {self.num_tiles} tiles" if self.num_tiles else ""
        speed = "" if self.tokens_per_s is None else f" at {self.tokens_per_s:.1f} tokens/s"
        kept = ", ".join(f"{part.num_bytes:,} bytes in {part.num_layers} {part.kind} layers" for part in self.memory)
        return (
            f"prompt {self.num_prompt_tokens} tokens{tiles}, read in {self.prompt_s:.3g} s; answer "
            f"{self.num_new_tokens} tokens{speed}, stopped at {self.stopped_at}; steps: {self.steps}; kept: {kept}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model, a prompt and sampling options.

    Attributes:
        model: its name; see `open_model`.
        selector: which student, if it is a run.
        prompt: the question, with a placeholder for each image; a single image needs none.
        images: in the order of the placeholders.
        is_raw: whether the prompt is used verbatim, without the chat format.
        system: the system message; None for the one used in training.
        max_tiles: maximum tiles per image; None for the number used in training.
        sampling: how tokens are chosen.
        seed: random seed for sampling.
        max_new_tokens: maximum number of new tokens.
        precision: of the weights; None for the run's or config.json's.
        device: cpu, cuda or auto.
        products: what computes the products of linear layers; see `DistillConfig.products`.
    """

    model: str
    selector: StudentSelector
    prompt: str
    images: Sequence[Path]
    is_raw: bool
    system: str | None
    max_tiles: int | None
    sampling: SamplingConfig
    seed: int
    max_new_tokens: int
    precision: str | None
    device: str
    products: str


def main(request: Request, *, threads: int | None, json_path: Path | None) -> None:
    """Stream an answer to standard output, then print a summary line to standard error.

    Args:
        request: the model, prompt and options.
        threads: number of torch threads; None for one per core.
        json_path: file for the answer and the measurements; None to write none.

    Raises:
        LabError: naming argument or file, value and fix.
    """
    if json_path is not None:
        refuse_no_file(json_path)
    refuse_too_many_threads(threads)
    torch.set_num_threads(threads or usable_cores())
    report = answer(request, _write)
    _write("\n")
    print(f"lab: {report.line()}", file=sys.stderr)
    if json_path is not None:
        asked = {"model": request.model, "prompt": request.prompt, "images": list(map(str, request.images))}
        content = {**asked, "seed": request.seed, **asdict(request.sampling), **asdict(report)}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_path, json.dumps(content, indent=2) + "\n")


def answer(request: Request, write: Callable[[str], None]) -> Report:
    """Answer a request; `write` receives the text piece by piece.

    Raises:
        LabError: naming argument or file, value and fix.
    """
    current.refuse_unknown(request.products)
    opened = _opened(request)
    with current.using(request.products):
        return _answer(opened, request, write)


def _answer(opened: OpenedModel, request: Request, write: Callable[[str], None]) -> Report:
    current.refuse(request.products, next(opened.model.parameters()).device, [opened.model.dtype])
    # measured now, if at all: not while the prompt is timed
    current.settle(opened.model, [opened.model.dtype])
    generator = Seeds(request.seed).torch("generate")
    inputs = opened.read(request.prompt, request.images, is_raw=request.is_raw)
    room = longest_answer(opened.model, inputs)
    limit = request.max_new_tokens if room is None else min(room, request.max_new_tokens)
    state = allocate(opened.model, inputs, limit)
    steps = Steps(opened.model, state)
    stream = TextStream(opened.tokenizer)
    text, token = "", -1
    moments = [time.perf_counter()]
    for token in generate(
        steps,
        inputs,
        sampling=request.sampling,
        generator=generator,
        max_new_tokens=limit,
        num_ids=len(opened.tokenizer),
        stop_ids=opened.stop_ids,
    ):
        moments.append(time.perf_counter())
        if token not in opened.stop_ids:
            text += _passed(write, stream.push(token))
    text += _passed(write, stream.rest())
    num_new = len(moments) - 1
    return Report(
        text=text,
        stopped_at=_stopped_at(token in opened.stop_ids, limit, request.max_new_tokens),
        num_prompt_tokens=inputs.tokens.shape[1],
        num_tiles=0 if inputs.pixel_values is None else len(inputs.pixel_values),
        num_new_tokens=num_new,
        prompt_s=moments[1] - moments[0],
        tokens_per_s=(num_new - 1) / (moments[-1] - moments[1]) if num_new > 1 else None,
        steps=steps.how,
        memory=_memory(opened.model, state),
    )


def _opened(request: Request) -> OpenedModel:
    precision = request.precision
    if precision is not None and precision not in Precision.__members__:
        raise ConfigError(f"precision={precision}: choose from {', '.join(Precision.__members__)}")
    opened = open_model(
        request.model,
        request.selector,
        device=device_of(request.device),
        precision=None if precision is None else Precision(precision),
    )
    known = opened.prompt
    system = known.system if request.system is None else request.system
    return replace(opened, prompt=PromptConfig(system=system, max_tiles=request.max_tiles or known.max_tiles))


def _memory(model: LanguageModel, state: DecodingState) -> tuple[Memory, ...]:
    sizes: dict[str, list[int]] = {}
    for layer, kept in zip(model.mixer_layers(), state.layers, strict=True):
        sizes.setdefault(layer.layer.mixer.kind, []).append(kept.num_bytes)
    return tuple(Memory(kind, len(each), sum(each)) for kind, each in sizes.items())


def _passed(write: Callable[[str], None], piece: str) -> str:
    write(piece)
    return piece


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _stopped_at(is_stopped: bool, limit: int, max_new_tokens: int) -> str:
    if is_stopped:
        return "end of turn"
    return "max-new-tokens" if limit == max_new_tokens else "the length that the model was trained on"
