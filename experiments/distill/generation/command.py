"""`lab generate`: stream an answer from a teacher or a student, and report speed and memory."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import torch

from lab.core.data.tiling import load_image
from lab.core.errors import ConfigError, InputError
from lab.core.models.config import ModelConfig
from lab.core.models.generation import SamplingConfig
from lab.core.products import current
from lab.core.resources import refuse_too_many_threads, usable_cores
from lab.core.runs.atomic_files import refuse_no_file, refuse_special, write_atomically
from lab.core.runs.console import seconds_between_lines
from lab.core.runs.random_streams import Seeds
from lab.core.streams import say
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.generation.answer import Report, Respondent
from lab.experiments.distill.generation.chat import chat
from lab.experiments.distill.generation.request_file import (
    answer_file,
    read_requests,
    refuse_no_answers,
    refuse_other_answers,
    refuse_pictures_of,
)
from lab.experiments.distill.load import find_model, precision_of
from lab.experiments.distill.opened_model import OpenedModel, refuse_empty, refuse_pictures, refuse_unused
from lab.experiments.distill.selector import StudentSelector, selected_by
from lab.experiments.distill.teacher import device_of

# of standard input, in place of a file
STANDARD_INPUT = Path("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model, a prompt and sampling options.

    Attributes:
        model: its name; see `open_model`. Or RUN@STAGE:VARIANT:REPLICATE.
        selector: which student, if it is a run and its name leaves it open.
        prompt: the question, with a placeholder for each image; a single image needs none.
        images: in the order of the placeholders.
        is_raw: whether the prompt is used verbatim, without the chat template.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Where prompts come from: exactly one of these.

    Attributes:
        text: a prompt.
        file: a text file with a prompt, or standard input.
        requests: a file of JSON lines, with the file for the answers.
        num_rows: requests that are answered at once.
        is_chat: lines of standard input, each a turn of one conversation.
    """

    text: str | None
    file: Path | None
    requests: tuple[Path, Path] | None
    num_rows: int
    is_chat: bool


def main(request: Request, prompts: Prompts, *, threads: int | None, json_path: Path | None) -> None:
    """Answer on standard output, then print a summary line to standard error.

    Args:
        request: the model and options; its prompt is replaced by what `prompts` says.
        prompts: where prompts come from.
        threads: number of torch threads; None for one per core.
        json_path: file for an answer and its measurements; None to write none.

    Raises:
        LabError: naming argument or file, value and fix.
    """
    _refuse_mixed(request, prompts, json_path)
    if json_path is not None:
        refuse_no_file(json_path)
    refuse_too_many_threads(threads)
    torch.set_num_threads(threads or usable_cores())
    if prompts.requests is not None:
        # before a large model is loaded
        requests = read_requests(prompts.requests[0])
        refuse_no_answers(prompts.requests[1])
        refuse_other_answers(prompts.requests[1], requests)
        seconds_between_lines()
        with _opened(request, partial(refuse_pictures_of, requests, prompts.requests[0])) as opened:
            respondent = _respondent(opened, request, lambda piece: None)
            seeds, options = Seeds(request.seed), _options(request)
            rows = prompts.num_rows
            line = answer_file(respondent, *prompts.requests, num_rows=rows, options=options, seeds=seeds, day=_today())
        say(line)
        return
    if prompts.is_chat:
        _refuse_missing_images(request)
        with _opened(request, partial(refuse_pictures, request.images)) as opened:
            chat(_respondent(opened, request, _write), request.images, seeds=Seeds(request.seed), day=_today())
        return
    asked = replace(request, prompt=prompts.text if prompts.text is not None else _text_of(prompts.file))
    report = answer(asked, _write)
    _write("\n")
    say(report.line())
    if json_path is not None:
        words = {"model": request.model, "prompt": asked.prompt, "images": list(map(str, request.images))}
        content = {**words, "seed": request.seed, **asdict(request.sampling), **asdict(report)}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_path, json.dumps(content, indent=2) + "\n")


def answer(request: Request, write: Callable[[str], None]) -> Report:
    """Answer a request; `write` receives the text piece by piece.

    Raises:
        LabError: naming argument or file, value and fix.
    """
    refuse_empty(request.prompt, request.images, is_raw=request.is_raw)
    _refuse_missing_images(request)
    with _opened(request, partial(refuse_pictures, request.images)) as opened:
        inputs = opened.read(request.prompt, request.images, is_raw=request.is_raw, day=_today())
        return _respondent(opened, request, write).answer(inputs, Seeds(request.seed).torch("generate"))


@contextmanager
def _opened(request: Request, refuse: Callable[[ModelConfig], None]) -> Iterator[OpenedModel]:
    """The model of a request, with its products, until the context is left.

    Args:
        request: which model, and how it reads prompts.
        refuse: what a model of an architecture does not read; called before weights are.
    """
    current.refuse_unknown(request.products)
    precision, device = precision_of(request.precision), device_of(request.device)
    found = find_model(*selected_by(request.model, request.selector))
    refuse_unused(found.template, found.architecture, system=request.system, max_tiles=request.max_tiles)
    refuse(found.architecture)
    known = found.prompt
    system = known.system if request.system is None else request.system
    prompt = PromptConfig(system=system, max_tiles=request.max_tiles or known.max_tiles)
    opened = OpenedModel(found.load(device, precision), found.tokenizer, prompt, found.stop_ids)
    with current.using(request.products):
        current.refuse(request.products, next(opened.model.parameters()).device, [opened.model.dtype])
        # measured now, if at all: not while a prompt is timed
        current.settle(opened.model, [opened.model.dtype])
        yield opened


def _refuse_missing_images(request: Request) -> None:
    for image in request.images:
        load_image(image)


def _respondent(opened: OpenedModel, request: Request, write: Callable[[str], None]) -> Respondent:
    return Respondent(
        opened=opened,
        sampling=request.sampling,
        max_new_tokens=request.max_new_tokens,
        is_raw=request.is_raw,
        write=write,
    )


def _options(request: Request) -> dict[str, object]:
    """What answers depend on besides prompts, images and the model, which is known by its weights."""
    others = ("prompt", "images", "model", "selector")
    return {name: value for name, value in asdict(request).items() if name not in others}


def _refuse_mixed(request: Request, prompts: Prompts, json_path: Path | None) -> None:
    given = {
        "--prompt": prompts.text is not None,
        "--prompt-file": prompts.file is not None,
        "--requests": prompts.requests is not None,
        "--chat": prompts.is_chat,
    }
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) != 1:
        which = f"{' and '.join(chosen)} are" if chosen else "no prompt is"
        raise ConfigError(f"{which} given; give one of {', '.join(given)}")
    if json_path is not None and chosen[0] in ("--requests", "--chat"):
        raise ConfigError(f"--json is for one answer; leave it out beside {chosen[0]}")
    if prompts.num_rows > 1 and prompts.requests is None:
        raise ConfigError(f"--batch {prompts.num_rows} is for --requests; leave it out")
    if request.images and prompts.requests is not None:
        raise ConfigError("--image belongs to one prompt; name images in the lines of --requests")
    if request.is_raw and prompts.is_chat:
        raise ConfigError("--raw leaves out the chat template, which --chat needs; leave one out")
    if request.is_raw and request.images:
        raise InputError(f"image={request.images[0]}: a raw prompt is text only; leave the images out")
    if request.is_raw and request.system:
        raise ConfigError("--raw leaves out the chat template, which writes --system; leave one out")


def _text_of(path: Path | None) -> str:
    assert path is not None, "it was asked for"
    try:
        if path == STANDARD_INPUT:
            return sys.stdin.read().removeprefix("\ufeff").rstrip("\n")
        refuse_special(path, InputError)
        return path.read_text(encoding="utf-8-sig").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--prompt-file {path} cannot be read ({error}); give a text file, or - for standard input"
        ) from None


def _today() -> date:
    # where the user is
    return date.today()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
