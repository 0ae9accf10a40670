"""Text from a model: the prompt fills a state that was allocated for it, then every token takes one step."""

# Letters: V vocabulary.

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.errors import ConfigError, InputError
from lab.core.mixers.rotary import Rotary
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.steps import Steps
from lab.core.ranges import LARGEST_COUNT, refuse_outside
from lab.core.resources import refuse_too_large
from lab.core.tokenizer import Tokenizer

# what a decoder of bytes writes for a letter that is not complete
_INCOMPLETE = "\ufffd"


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float = 0.0
    """Scores are divided by it; 0: the likeliest token."""
    top_k: int | None = None
    """Only this many of the likeliest tokens; null: all."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability (Holtzman et al., arXiv 1904.09751); null: all."""

    def __post_init__(self) -> None:
        if self.temperature != 0:
            # below, the quotients of ordinary logits overflow
            refuse_outside(self, "temperature", at_least=1e-4, at_most=1e4, hint="0 is greedy")
        refuse_outside(self, "top_k", at_least=1)
        refuse_outside(self, "top_p", above=0, at_most=1)
        for name in ("top_k", "top_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ConfigError(
                    f"{name}={getattr(self, name)} with temperature=0, which always takes the likeliest token; give a "
                    "temperature too, such as 1"
                )


def generate(
    steps: Steps,
    prompt: Inputs,
    *,
    sampling: SamplingConfig,
    generator: torch.Generator,
    max_new_tokens: int,
    num_ids: int,
    stop_ids: Collection[int],
) -> Iterator[int]:
    """The tokens of an answer, each as soon as it is known.

    Args:
        steps: with an empty state that has room for prompt and answer, but the last token; see `allocate`.
        prompt: one row.
        sampling: how a token is chosen.
        generator: of the random numbers, on the CPU.
        max_new_tokens: where the answer ends at the latest.
        num_ids: ids below it may be chosen: tables of embeddings are padded with ids that have no text.
        stop_ids: where the answer ends, this token included.

    Raises:
        InputError: if the prompt does not fit the model.
    """
    inputs = prompt
    for _ in range(max_new_tokens):
        token = choose(steps.logits(inputs)[0, :num_ids], sampling, generator)
        yield token
        if token in stop_ids:
            return
        inputs = Inputs(tokens=prompt.tokens.new_full((1, 1), token))


def choose(logits: Float[Tensor, " V"], sampling: SamplingConfig, generator: torch.Generator) -> int:
    """The next token.

    Raises:
        InputError: if there is no likeliest one, since a score is NaN or infinite.
    """
    likeliest = int(logits.argmax())
    # to argmax, NaN is the largest number
    if not math.isfinite(logits[likeliest]):
        raise InputError(
            f"the scores of the next token hold NaN or infinity in {logits.dtype}: what the layers compute overflows; "
            "take a checkpoint that is not damaged, in a dtype whose numbers reach further"
        )
    if sampling.temperature == 0:
        return likeliest
    probs = next_token_distribution(logits, sampling).cpu()
    return int(torch.multinomial(probs, 1, generator=generator))


def next_token_distribution(logits: Float[Tensor, " V"], sampling: SamplingConfig) -> Float[Tensor, " V"]:
    """The probabilities of which a token is drawn: tempered, then the top k, then the top p of these."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)) / sampling.temperature
    ordered, ids = wide.sort(descending=True, stable=True)
    ordered = ordered[: sampling.top_k]
    probs = ordered.softmax(dim=0)
    if sampling.top_p is not None:
        # a token stays if those before it do not reach top_p: the first always does
        probs = probs * (probs.cumsum(dim=0) - probs < sampling.top_p)
    return torch.zeros_like(wide).scatter(0, ids[: len(probs)], probs / probs.sum())


def allocate(model: LanguageModel, prompt: Inputs, max_new_tokens: int) -> DecodingState:
    """An empty state with room for a prompt and an answer; the last token of an answer is never read.

    Raises:
        ConfigError: if the keys and values of so many tokens do not fit into memory.
    """
    num_more = max_new_tokens - 1
    refuse_too_long(model, [length + num_more for length in model.layer_lengths(prompt)], 1, max_new_tokens)
    return model.allocate_state(
        1,
        max_length=prompt.tokens.shape[1] + num_more,
        hd_max_length=None if prompt.hd_tokens is None else prompt.hd_tokens.shape[1] + num_more,
    )


def refuse_too_long(model: LanguageModel, lengths: Sequence[int], num_rows: int, max_new_tokens: int) -> None:
    """Refuse sequences whose keys and values do not fit into memory.

    Args:
        model: on its device.
        lengths: tokens of a row in each layer.
        num_rows: sequences side by side.
        max_new_tokens: for the message.

    Raises:
        ConfigError: naming the estimate.
    """
    mixers = [layer.layer.mixer for layer in model.mixer_layers()]
    num_bytes = num_rows * sum(
        mixer.bytes_per_token * min(length, mixer.window or LARGEST_COUNT)
        for mixer, length in zip(mixers, lengths, strict=True)
        if isinstance(mixer, SoftmaxAttention)
    )
    if model.input_embedding.weight.device.type == "cpu":
        what = f"max_new_tokens={max_new_tokens}" + (f" for {num_rows} rows" if num_rows > 1 else "")
        refuse_too_large(num_bytes, what, "lower one" if num_rows > 1 else "lower it")


def depends_on_room(model: LanguageModel) -> bool:
    """Whether scores depend on the room of a state: some rotary embeddings change with the length of the sequence.

    They do so in every mixer that has one, softmax attention or not.
    """
    rotaries = [getattr(layer.layer.mixer, "rotary", None) for layer in model.mixer_layers()]
    return any(isinstance(rotary, Rotary) and rotary.config.depends_on_length for rotary in rotaries)


def longest_answer(model: LanguageModel, prompt: Inputs) -> int | None:
    """Tokens that can be generated before a rotary embedding has come to its end; None: any number.

    Mixers without a rotary embedding, and dynamic embeddings, have no end.

    Raises:
        InputError: if the prompt alone is too long.
    """
    rooms = []
    for layer, length in zip(model.mixer_layers(), model.layer_lengths(prompt), strict=True):
        longest = layer.layer.mixer.longest
        if longest is None:
            continue
        if length > longest:
            raise InputError(
                f"the prompt has {length} tokens, those of images included, but the model was trained on at most "
                f"{longest}; shorten it, or give fewer images or tiles"
            )
        # the last token of an answer is never read
        rooms.append(longest - length + 1)
    return min(rooms) if rooms else None


class TextStream:
    """Ids to text as they come; a letter that is made of several tokens is given once it is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # the last piece that was given is decoded again with what follows: spaces depend on what is before them
        self._start = 0
        self._given = 0

    def push(self, token: int) -> str:
        """What a token adds to the text that was given so far."""
        self._ids.append(token)
        more = self._more()
        if more.endswith(_INCOMPLETE):
            return ""
        self._start, self._given = self._given, len(self._ids)
        return more

    def rest(self) -> str:
        """What is left at the end, complete or not."""
        return self._more() if self._given < len(self._ids) else ""

    def _more(self) -> str:
        before = self._tokenizer.decode(self._ids[self._start : self._given]) if self._given > self._start else ""
        return self._tokenizer.decode(self._ids[self._start :])[len(before) :]
