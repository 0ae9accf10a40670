"""A model as other tools ask it: likelihoods of texts, and answers that end where a tool says."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from lab.core.data.jinja_chat import JinjaChat
from lab.core.data.picture_conversation import text_parts
from lab.core.data.picture_format import TowerFormat
from lab.core.errors import ConfigError, InputError
from lab.core.models.config import max_length
from lab.core.models.decoder import Inputs
from lab.core.models.generation import SamplingConfig, TextStream, longest_answer
from lab.core.products import current
from lab.core.runs.random_streams import Seeds
from lab.core.streams import say
from lab.experiments.distill.data import PromptConfig, prompt_format
from lab.experiments.distill.load import precision_of
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.teacher import device_of
from lab.experiments.eval.answering import Likelihood, Respondent
from lab.experiments.eval.candidates import Candidate, Role

# as many as lm-evaluation-harness's own models give where a task does not say
_MOST_NEW_TOKENS = 256
# what both tools' commands pass where no device was named
_NO_DEVICE = "cuda:0"
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class Served(NamedTuple):
    """A model that other tools ask.

    Attributes:
        respondent: the model.
        generator: of sampled answers.
    """

    respondent: Respondent
    generator: torch.Generator

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the model was trained on."""
        return max_length(self.respondent.opened.model.config)

    @property
    def chat(self) -> JinjaChat | None:
        """The chat template that a model brings; None for one that is written as in training."""
        opened = self.respondent.opened
        has_own = opened.model.config.vision is None or self._tower is not None
        return opened.tokenizer.chat if has_own else None

    def content(self, text: str) -> str | list[dict[str, str]]:
        """A text as templates of the model read it."""
        return text if self._tower is None else text_parts(text)

    @property
    def _tower(self) -> TowerFormat | None:
        opened = self.respondent.opened
        return prompt_format(opened.prompt, opened.model.config).tower

    @property
    def prefix(self) -> list[int]:
        """What opens a sequence: the tokenizer's opening token; none where it has none."""
        bos = self.respondent.opened.tokenizer.bos_id
        return [] if bos is None else [bos]

    @property
    def first(self) -> int:
        """What stands in front of a text without a context: the opening token, or one that ends a turn.

        Raises:
            ConfigError: if there is neither.
        """
        tokens = self.prefix or sorted(self.respondent.opened.stop_ids)
        if not tokens:
            raise ConfigError(
                f"{self.respondent.label}: its tokenizer has no opening token, and config.json and "
                "generation_config.json no eos_token_id, to stand in front of a text; add one"
            )
        return tokens[0]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without anything around it."""
        return self.respondent.opened.tokenizer.encode(text)

    def inputs(self, ids: Sequence[int]) -> Inputs:
        """A sequence of text for the model."""
        device = next(self.respondent.opened.model.parameters()).device
        return Inputs(tokens=torch.tensor([list(ids)], device=device))

    def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """A text as ids in two parts; spaces at the end of the context belong to the continuation.

        Without a context and an opening token, the token that ends a turn stands in front.

        Raises:
            InputError: if the continuation adds no token.
        """
        bare = context.rstrip(" ")
        whole, before = self.encode(context + continuation), self.encode(bare)
        ids = whole[len(before) :]
        if not ids:
            raise InputError(f"the continuation {continuation[:60]!r} adds no token to its context; mend the task")
        before = [*self.prefix, *before]
        return before or [self.first], ids

    def likelihood(self, before: Sequence[int], ids: Sequence[int]) -> Likelihood:
        """How likely tokens are behind others; of what is longer than the model reads, the beginning is left out.

        Raises:
            InputError: if the tokens alone are too long.
        """
        if len(ids) > self.longest:
            raise InputError(f"a continuation has {len(ids)} tokens, the model reads {self.longest}; shorten it")
        kept = [*before, *ids][-self.longest - 1 : -len(ids)]
        return self.respondent.log_likelihood(self.inputs(kept), ids)

    def generate(self, prompt: Inputs, asked: "Asked") -> str:
        """What follows a prompt, up to one of the texts or tokens that end it; nothing if the prompt is too long."""
        opened = self.respondent.opened
        try:
            room = longest_answer(opened.model, prompt)
        except InputError as error:
            say(f"not answered: {error}")
            return ""
        limit = asked.max_new_tokens if room is None else min(room, asked.max_new_tokens)
        stream, text = TextStream(opened.tokenizer), ""
        for token in self.respondent.tokens(prompt, limit, asked.sampling, self.generator):
            if token in opened.stop_ids:
                break
            text += stream.push(token)
            ends = [text.find(stop) for stop in asked.stops if stop in text]
            if ends:
                return text[: min(ends)]
        return text + stream.rest()


class Asked(NamedTuple):
    """How an answer is generated.

    Attributes:
        stops: texts that end it, themselves left out.
        max_new_tokens: where it ends at the latest.
        sampling: how a token is chosen.
    """

    stops: tuple[str, ...]
    max_new_tokens: int
    sampling: SamplingConfig


def asked_of(arguments: Mapping[str, Any]) -> Asked:
    """What a task's generation arguments ask for.

    Raises:
        ConfigError: naming an argument that is not known, or a value that cannot be followed.
    """
    rest = dict(arguments)
    until = rest.pop("until", None) or []
    lengths = [rest.pop(name) for name in _LENGTHS if rest.get(name) is not None]
    temperature = float(rest.pop("temperature", None) or 0)
    if rest.pop("do_sample", None) is False:
        temperature = 0.0
    top_k, top_p = rest.pop("top_k", None) or None, rest.pop("top_p", None)
    if (rest.pop("num_beams", None) or 1) != 1:
        raise ConfigError("num_beams: answers are generated without a beam search; leave it out, or give 1")
    unknown = next((name for name, value in rest.items() if value is not None), None)
    if unknown is not None:
        raise ConfigError(f"{unknown}={rest[unknown]}: generation has no such argument here; leave it out")
    # without a temperature, both have nothing to choose from
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p) if temperature else SamplingConfig()
    stops = (until,) if isinstance(until, str) else tuple(until)
    return Asked(tuple(stop for stop in stops if stop), lengths[0] if lengths else _MOST_NEW_TOKENS, sampling)


def serve(
    model: str,
    *,
    device: str | None,
    precision: str | None,
    batch_size: int | str | None,
    max_batch_size: int | str | None,
    max_tiles: int | None,
) -> Served:
    """Open a model.

    Args:
        model: a checkpoint folder, a GGUF file, shipped, a run, or RUN@STAGE:VARIANT:REPLICATE.
        device: cpu, cuda or auto; None for auto, as the tools' own default.
        precision: of the weights; None as stored.
        batch_size: what the tools pass: 1, since prompts are read one by one.
        max_batch_size: likewise.
        max_tiles: of an image; None for as many as in training.

    Raises:
        LabError: as `Candidate.find`, and for a value that cannot be followed.
    """
    for name, size in (("batch_size", batch_size), ("max_batch_size", max_batch_size)):
        if size is not None and str(size) != "1":
            raise ConfigError(f"{name}={size}: prompts are read one by one; leave it out, or give 1")
    chosen = precision_of(precision)
    found = Candidate(model, Role.model, model).find()
    named = "auto" if device is None or device == _NO_DEVICE else device
    placed = found.load(device_of(named), chosen)
    current.settle(placed, [placed.dtype])
    prompt = PromptConfig(system=found.prompt.system, max_tiles=max_tiles or found.prompt.max_tiles)
    opened = OpenedModel(placed, found.tokenizer, prompt, found.stop_ids)
    return Served(Respondent(model, opened), Seeds(0).torch("generate"))
