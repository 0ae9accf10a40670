"""A model that answers: greedy answers, and the likelihood of texts."""

# Letters: T tokens, V vocabulary, n tokens that are compared.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lab.core.divergence.rows import kl_divergence
from lab.core.errors import InputError
from lab.core.models.decoder import Inputs
from lab.core.models.generation import SamplingConfig, allocate, generate, longest_answer
from lab.core.models.steps import Steps
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.opened_model import OpenedModel

# positions whose scores are in memory at once
_CHUNK = 256


class Answer(NamedTuple):
    """A generated answer.

    Attributes:
        text: without the end of the turn.
        stopped_at, end_token: see `AnswerRow`.
        num_prompt_tokens: those of images included.
        ids: the tokens, the end of the turn included.
    """

    text: str
    stopped_at: str
    end_token: int | None
    num_prompt_tokens: int
    ids: tuple[int, ...]


class Likelihood(NamedTuple):
    """How likely some tokens are behind a prompt.

    Attributes:
        value: the logarithm of their probability, in nats.
        is_greedy: whether each is the likeliest.
    """

    value: float
    is_greedy: bool


class Compared(NamedTuple):
    """How near a model is to its teacher over some tokens; see `AnswerRow`."""

    kl: float
    agreeing: int
    num_compared: int


@dataclass(frozen=True, slots=True)
class Respondent:
    """A model with what decides how it answers.

    Attributes:
        label: of the model.
        opened: the model, its tokenizer and its prompt format.
        is_ablated: whether it sees grey instead of images.
        is_whole: whether it cannot be decoded step by step: each token then takes a pass over the whole sequence.
    """

    label: str
    opened: OpenedModel
    is_ablated: bool = False
    is_whole: bool = False

    def prompt(self, text: str, images: Sequence[Image.Image], *, max_tiles: int) -> Inputs:
        """A question with a mark for each image, encoded; no image has more tiles than in training.

        Raises:
            InputError: if it cannot be encoded.
        """
        known = self.opened.prompt
        written = PromptConfig(system=known.system, max_tiles=min(max_tiles, known.max_tiles))
        inputs = replace(self.opened, prompt=written).read(text, images, is_raw=False)
        if self.is_ablated and inputs.pixel_values is not None:
            return replace(inputs, pixel_values=torch.zeros_like(inputs.pixel_values))
        return inputs

    def answer(self, prompt: Inputs, max_new_tokens: int) -> Answer:
        """The greedy answer to a prompt; an empty one where the prompt is longer than the model can read."""
        model, stop_ids = self.opened.model, self.opened.stop_ids
        try:
            room = longest_answer(model, prompt)
        except InputError:
            return Answer("", "too long", None, 0, ())
        limit = max_new_tokens if room is None else min(room, max_new_tokens)
        if self.is_whole:
            ids = self._whole(prompt, limit)
        else:
            ids = list(self.tokens(prompt, limit, SamplingConfig(), torch.Generator()))
        is_ended = bool(ids) and ids[-1] in stop_ids
        at_limit = "max_new_tokens" if limit == max_new_tokens else "the model's length"
        stopped_at = "end of turn" if is_ended else at_limit if len(ids) == limit else "an image token"
        text = self.opened.tokenizer.decode(ids[:-1] if is_ended else ids)
        return Answer(text.strip(), stopped_at, ids[-1] if is_ended else None, prompt.tokens.shape[1], tuple(ids))

    def tokens(self, prompt: Inputs, limit: int, sampling: SamplingConfig, generator: torch.Generator) -> Iterator[int]:
        """An answer of at most `limit` tokens, step by step, the end of the turn included; see `generate`."""
        model = self.opened.model
        return generate(
            Steps(model, allocate(model, prompt, limit)),
            prompt,
            sampling=sampling,
            generator=generator,
            max_new_tokens=limit,
            num_ids=len(self.opened.tokenizer),
            stop_ids=self.opened.stop_ids,
        )

    def _whole(self, prompt: Inputs, limit: int) -> list[int]:
        ids: list[int] = []
        vision = self.opened.model.config.vision
        # behind a token that stands for an image there would have to be an image
        ends = self.opened.stop_ids | ({vision.image_token_id} if vision is not None else set())
        while len(ids) < limit and not (ids and ids[-1] in ends):
            ids.append(int(self.scores(followed_by(prompt, ids), 1)[-1].argmax()))
        return ids

    def can_read(self, prompt: Inputs, ids: Sequence[int]) -> bool:
        """Whether a prompt with tokens behind it, of which the last is not read, is no longer than the model reads."""
        try:
            room = longest_answer(self.opened.model, prompt)
        except InputError:
            return False
        return room is None or len(ids) <= room

    @torch.no_grad()
    def scores(self, inputs: Inputs, number: int) -> Float[Tensor, "n V"]:
        """The scores of the tokens that follow the last `number` positions of a sequence, of ids that have a text."""
        model, num_ids = self.opened.model, len(self.opened.tokenizer)
        hidden = model.hidden(inputs)[0, -number:]
        return torch.cat([model.logits(part)[:, :num_ids] for part in torch.split(hidden, _CHUNK)])

    def log_likelihood(self, prompt: Inputs, ids: Sequence[int]) -> Likelihood:
        """How likely it is that tokens follow a prompt."""
        scores = self.scores(followed_by(prompt, ids[:-1]), len(ids))
        return Likelihood(float(-nll(scores, ids).double().sum()), scores.argmax(dim=-1).tolist() == list(ids))


def followed_by(prompt: Inputs, ids: Sequence[int]) -> Inputs:
    """A prompt with more tokens of text behind it."""
    if not ids:
        return prompt
    more = prompt.tokens.new_tensor([list(ids)])
    longer = None if prompt.hd_tokens is None else torch.cat([prompt.hd_tokens, more], dim=1)
    return replace(prompt, tokens=torch.cat([prompt.tokens, more], dim=1), hd_tokens=longer)


def nll(scores: Float[Tensor, "n V"], ids: Sequence[int]) -> Float[Tensor, " n"]:
    """Minus the logarithm of the probability of each token, in float32 or better."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    targets = torch.tensor(ids, device=scores.device)
    return torch.nn.functional.cross_entropy(wide, targets, reduction="none")


def compared(ours: Float[Tensor, "n V"], theirs: Float[Tensor, "n V"]) -> Compared:
    """The divergence of a model's scores from its teacher's, summed over tokens."""
    kl = sum(
        float(kl_divergence(one, other).double().sum())
        for one, other in zip(torch.split(ours, _CHUNK), torch.split(theirs, _CHUNK), strict=True)
    )
    agreeing = int((ours.argmax(dim=-1) == theirs.argmax(dim=-1)).sum())
    return Compared(kl, agreeing, len(ours))


def have_one_vocabulary(one: OpenedModel, other: OpenedModel) -> bool:
    """Whether two models number the same tokens, so that their distributions can be compared."""
    first, second = one.tokenizer, other.tokenizer
    if first is second:
        return True
    return len(first) == len(second) and all(first.decode([i]) == second.decode([i]) for i in range(len(first)))
