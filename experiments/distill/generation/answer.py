"""One answer of a model, token by token, with its speed and the memory that it took."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.generation import SamplingConfig, TextStream, allocate, generate, longest_answer
from lab.core.models.steps import Steps
from lab.experiments.distill.opened_model import OpenedModel

# of a prompt that no template has written
AS_IT_IS = "none, the prompt as it is"


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
        num_prompt_tokens: including those of images, and of earlier turns.
        num_read_tokens: of the prompt, those that the state did not hold from an earlier turn.
        template: the chat template that wrote the prompt.
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
    num_read_tokens: int
    template: str
    num_tiles: int
    num_new_tokens: int
    prompt_s: float
    tokens_per_s: float | None
    steps: str
    memory: tuple[Memory, ...]

    def line(self) -> str:
        """Everything except the text."""
        kept = self.num_prompt_tokens - self.num_read_tokens
        tokens = f"{self.num_prompt_tokens} tokens" + (f", {kept} of them known" if kept else "")
        tiles = f", {self.num_tiles} tiles" if self.num_tiles else ""
        speed = "" if self.tokens_per_s is None else f" at {self.tokens_per_s:.1f} tokens/s"
        layers = ", ".join(f"{part.num_bytes:,} bytes in {part.num_layers} {part.kind} layers" for part in self.memory)
        return (
            f"prompt {tokens}{tiles}, read in {self.prompt_s:.3g} s; answer {self.num_new_tokens} tokens{speed}, "
            f"stopped at {self.stopped_at}; chat template: {self.template}; steps: {self.steps}; kept: {layers}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Respondent:
    """A model that answers.

    Attributes:
        opened: the model.
        sampling: how tokens are chosen.
        max_new_tokens: where an answer ends at the latest.
        is_raw: whether prompts are not written by the chat template.
        write: receives the text piece by piece.
    """

    opened: OpenedModel
    sampling: SamplingConfig
    max_new_tokens: int
    is_raw: bool = False
    write: Callable[[str], None] = lambda piece: None

    def answer(self, prompt: Inputs, generator: torch.Generator) -> Report:
        """Answer a prompt of one row, from an empty state.

        Args:
            prompt: one row.
            generator: of the random numbers, on the CPU.

        Raises:
            LabError: if the prompt does not fit the model, or its state not into memory.
        """
        limit = self.limit(prompt)
        steps = Steps(self.opened.model, allocate(self.opened.model, prompt, limit))
        return self.go_on(steps, prompt, generator, limit=limit)

    def limit(self, prompt: Inputs) -> int:
        """The longest answer that is wanted and that the model can give.

        Raises:
            InputError: if the prompt alone is too long.
        """
        room = longest_answer(self.opened.model, prompt)
        return self.max_new_tokens if room is None else min(room, self.max_new_tokens)

    def go_on(
        self,
        steps: Steps,
        rest: Inputs,
        generator: torch.Generator,
        *,
        limit: int,
        num_known: int = 0,
        follow: Callable[[int], None] = lambda token: None,
    ) -> Report:
        """Answer from a state that holds a part of the prompt already.

        Args:
            steps: with the state, which has room for the rest and an answer.
            rest: what the state does not hold, a token at least.
            generator: of the random numbers, on the CPU.
            limit: where the answer ends at the latest.
            num_known: tokens in the state.
            follow: receives each token.
        """
        opened = self.opened
        stream = TextStream(opened.tokenizer)
        pieces, token = [], -1
        moments = [time.perf_counter()]
        for token in generate(
            steps,
            rest,
            sampling=self.sampling,
            generator=generator,
            max_new_tokens=limit,
            num_ids=len(opened.tokenizer),
            stop_ids=opened.stop_ids,
        ):
            moments.append(time.perf_counter())
            follow(token)
            if token not in opened.stop_ids:
                pieces.append(stream.push(token))
                self.write(pieces[-1])
        pieces.append(stream.rest())
        self.write(pieces[-1])
        num_new = len(moments) - 1
        return Report(
            text="".join(pieces),
            stopped_at=self.stopped_at(token, limit),
            num_prompt_tokens=num_known + rest.tokens.shape[1],
            num_read_tokens=rest.tokens.shape[1],
            template=self.template,
            num_tiles=0 if rest.pixel_values is None else len(rest.pixel_values),
            num_new_tokens=num_new,
            prompt_s=moments[1] - moments[0],
            tokens_per_s=(num_new - 1) / (moments[-1] - moments[1]) if num_new > 1 else None,
            steps=steps.how,
            memory=_memory(opened.model, steps.state),
        )

    @property
    def template(self) -> str:
        """What writes the prompts, in words."""
        return AS_IT_IS if self.is_raw or self.opened.template is None else self.opened.template

    def stopped_at(self, token: int, limit: int) -> str:
        """Why an answer ended with this token, in words."""
        if token in self.opened.stop_ids:
            return "end of turn"
        return "max-new-tokens" if limit == self.max_new_tokens else "the length that the model was trained on"


def _memory(model: LanguageModel, state: DecodingState) -> tuple[Memory, ...]:
    sizes: dict[str, list[int]] = {}
    for layer, kept in zip(model.mixer_layers(), state.layers, strict=True):
        sizes.setdefault(layer.layer.mixer.kind, []).append(kept.num_bytes)
    return tuple(Memory(kind, len(each), sum(each)) for kind, each in sizes.items())
