"""`lab bench answer-speed`: tokens per second of an answer with its prompt, by the protocol of mmMamba's table 2.

One row, a prompt of 768 visual tokens and some text, 256 new tokens; speed is 256 over the time of both together.
"""

# Letters: V vocabulary.

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.models.config import ModelConfig
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.steps import Steps
from lab.core.products import current as products
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.accuracy import largest_difference
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Row
from lab.experiments.bench.long_context import paper
from lab.experiments.bench.long_context.exact import Exact
from lab.experiments.bench.long_context.models import Kind, Models
from lab.experiments.bench.long_context.paper import PaperSteps
from lab.experiments.bench.long_context.setting import Setting
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.published import published_speed

DISTRIBUTIONS = ("numpy", "torch")

# of the largest score: torch's layers, which read the prompt, round after each product
_TOLERANCE = {torch.bfloat16: 5e-2, torch.float32: 1e-3}
_PUBLISHED = {Kind.teacher: "HoVLE", paper.NAME: "HoVLE", Kind.hybrid: "mmMamba-hybrid", Kind.linear: "mmMamba-linear"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Sizes of prompt and answer, in tokens.

    Attributes:
        visual: image tokens; of text, for a model without images.
        text: behind them.
        new: of the answer.
    """

    visual: int = 768
    text: int = 32
    new: int = 256


@dataclass(slots=True)
class Answering:
    """How long the parts of the latest answer took.

    Attributes:
        prompt_s: by candidate, until the first token is known.
        step_s: by candidate, of each further token on average.
    """

    prompt_s: dict[str, float] = field(default_factory=dict)
    step_s: dict[str, float] = field(default_factory=dict)


def cases(*, quick: bool, options: Mapping[str, str]) -> Generator[Case, list[Row], Conclusion]:
    """Yield the case, receive its rows, and conclude."""
    setting = Setting.of(options, quick=quick)
    protocol = Protocol(visual=8, text=4, new=8) if quick else Protocol()
    peak = measure_peak(quick=quick)
    parts = Answering()
    with products.using(products.AUTO), torch.no_grad():
        models = setting.models()
        chosen = {str(kind): products.settle(model, [setting.dtype]) for kind, model in models.items()}
        prompt = prompt_of(setting.config, protocol, setting.dtype)
        rows = yield _case(setting, models, prompt, protocol, parts)
    findings = list(_findings(rows, protocol))
    facts: dict[str, Any] = {
        "setting": {name: value for name, value in asdict(setting).items() if name not in ("config", "lengths")},
        "protocol": asdict(protocol),
        "parts": asdict(parts),
        "products": chosen,
    }
    return Conclusion(findings=findings, facts=facts, peak=peak)


def prompt_of(config: ModelConfig, protocol: Protocol, dtype: torch.dtype) -> Inputs:
    """Random tiles and text behind them; text only where a model reads no images, or reads every patch."""
    generator = Seeds(0).torch("answer prompt")
    vision, vocab_size = config.vision, config.decoders[0].vocab_size
    if vision is None or vision.reads_every_patch:
        return Inputs(tokens=torch.randint(vocab_size, (1, protocol.visual + protocol.text), generator=generator))
    words = torch.randint(vocab_size, (1, protocol.text), generator=generator)
    # a word that happens to be the image token
    words[words == vision.image_token_id] = 0
    count = max(1, protocol.visual // vision.tokens_per_tile)
    marks = torch.full((1, count * vision.tokens_per_tile), vision.image_token_id)
    size = (count, vision.num_channels, vision.image_size, vision.image_size)
    tiles = torch.randn(size, generator=generator).to(dtype)
    return Inputs(tokens=torch.cat([marks, words], dim=1), pixel_values=tiles)


def answer(
    model: LanguageModel, prompt: Inputs, following: Int[Tensor, "1 following"], *, is_paper: bool
) -> tuple[Float[Tensor, "1 V"], float]:
    """Reads a prompt, then given tokens one after the other, and finds the likeliest token each time.

    Returns:
        The last scores, and the seconds until the first token was known.
    """
    started = time.perf_counter()
    state = model.allocate_state(1, max_length=prompt.tokens.shape[1] + following.shape[1])
    steps = Steps(model, state)
    scores = steps.logits(prompt)
    scores.argmax()
    prompt_s = time.perf_counter() - started
    theirs = PaperSteps(model, state) if is_paper else None
    for token in torch.split(following, 1, dim=1):
        scores = steps.logits(Inputs(tokens=token)) if theirs is None else theirs.logits(token)
        scores.argmax()
    return scores, prompt_s


def _case(setting: Setting, models: Models, prompt: Inputs, protocol: Protocol, parts: Answering) -> Case:
    length = prompt.tokens.shape[1]
    vocab_size = setting.config.decoders[0].vocab_size
    # the last token of an answer is never read
    following = torch.randint(vocab_size, (1, protocol.new - 1), generator=Seeds(0).torch("answer"))
    vision = setting.config.vision
    if vision is not None:
        following[following == vision.image_token_id] = 0
    exact = Exact(setting.dtype)
    whole = replace(prompt, tokens=torch.cat([prompt.tokens, following], dim=1))
    expected = {kind: exact.whole(model, whole) for kind, model in models.items()}

    def candidate(name: str, kind: Kind) -> Candidate:
        run = _timed(models[kind], prompt, following, name, parts)
        return Candidate(
            name=name,
            run=run,
            difference=lambda scores: largest_difference([scores], [expected[kind]]),
            tolerance=_TOLERANCE[setting.dtype],
            unit="of the largest",
        )

    kinds = {str(kind): kind for kind in (Kind.linear, Kind.hybrid, Kind.teacher)}
    if PaperSteps.why_not(models[Kind.teacher]) is None:
        kinds[paper.NAME] = Kind.teacher
    # code is compiled and threads are awake before the first answer, which may be the only one
    for name, kind in kinds.items():
        answer(models[kind], prompt, following[:, :2], is_paper=name == paper.NAME)
    ours, *rest = (candidate(name, kind) for name, kind in kinds.items())
    what = "visual tokens and text" if prompt.pixel_values is not None else "tokens of text"
    return Case(
        name=f"answer of {protocol.new} tokens after {length} {what}",
        setting=f"{setting.teacher}, {setting.num_layers} layers, {setting.precision}; compared with {exact.name}, "
        "one pass, one layer at a time; the tokens that follow are given, so that all read the same ones",
        ours=ours,
        others=rest,
        is_warm=True,
    )


def _timed(
    model: LanguageModel, prompt: Inputs, following: Tensor, name: str, parts: Answering
) -> Callable[[], Tensor]:
    def run() -> Tensor:
        started = time.perf_counter()
        scores, prompt_s = answer(model, prompt, following, is_paper=name == paper.NAME)
        parts.prompt_s[name] = prompt_s
        parts.step_s[name] = (time.perf_counter() - started - prompt_s) / following.shape[1]
        return scores

    return run


def _findings(rows: list[Row], protocol: Protocol) -> Generator[Finding]:
    speeds = {row.candidate: protocol.new / row.median_s for row in rows if row.median_s is not None}
    for name, speed in speeds.items():
        published = published_speed(_PUBLISHED[name])["tokens_per_s"]
        note = f"published, on an RTX 4090 with {_PUBLISHED[name]}: {published:g}"
        yield Finding(name=f"tokens per second, {name}", value=speed, unit="tokens/s", note=note)
    for kind in (Kind.hybrid, Kind.linear):
        for slower in (Kind.teacher, paper.NAME):
            if kind in speeds and slower in speeds:
                yield Finding(name=f"{kind} over {slower}, tokens per second", value=speeds[kind] / speeds[slower])
