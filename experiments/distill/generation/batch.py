"""Many prompts at once: their answers grow side by side, and every step reads the weights once for all of them."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.models.decoder import Inputs
from lab.core.models.generation import TextStream, choose, depends_on_room, refuse_too_long
from lab.core.models.rows import Rows
from lab.experiments.distill.generation.answer import Report, Respondent


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt.

    Attributes:
        place: its number among all.
        prompt: one row.
        generator: of the random numbers of its answer, on the CPU.
    """

    place: int
    prompt: Inputs
    generator: torch.Generator


def answer_all(respondent: Respondent, prompts: Iterable[Asked], *, num_rows: int) -> Iterator[tuple[int, Report]]:
    """The answers as they end, with the numbers of their prompts.

    Args:
        respondent: the model; what it writes token by token is left out.
        prompts: each is taken when there is a row for it.
        num_rows: answers that grow side by side. One, where scores depend on the room of a state, which rows share.

    Raises:
        LabError: if a prompt does not fit the model, or the rows not into memory.
    """
    if num_rows == 1 or depends_on_room(respondent.opened.model):
        for asked in prompts:
            yield asked.place, respondent.answer(asked.prompt, asked.generator)
        return
    yield from _Batch(respondent, prompts, num_rows).run()


@dataclass(slots=True)
class _Growing:
    """An answer that has not ended."""

    asked: Asked
    limit: int
    stream: TextStream
    read_s: float
    begin: float
    pieces: list[str] = field(default_factory=list)
    num_new: int = 0
    token: int = -1


class _Batch:
    def __init__(self, respondent: Respondent, prompts: Iterable[Asked], num_rows: int) -> None:
        self._respondent = respondent
        self._opened = respondent.opened
        self._rest = iter(prompts)
        self._next = next(self._rest, None)
        self._growing: list[_Growing | None] = [None] * num_rows
        self._rows: Rows | None = None
        self._lengths: list[int] = []

    def run(self) -> Iterator[tuple[int, Report]]:
        while True:
            yield from self._fill()
            if all(growing is None for growing in self._growing):
                return
            assert self._rows is not None, "somebody grows in them"
            tokens = torch.tensor([0 if growing is None else growing.token for growing in self._growing])
            scores = self._rows.step(tokens, is_free=[growing is None for growing in self._growing])
            for row, growing in enumerate(self._growing):
                if growing is not None:
                    yield from self._take(row, growing, scores[row])

    def _fill(self) -> Iterator[tuple[int, Report]]:
        """Give free rows to the next prompts; one that needs larger rows waits until all are free."""
        for row in range(len(self._growing)):
            # an answer may end with its first token
            while self._growing[row] is None and self._next is not None:
                asked = self._next
                limit = self._respondent.limit(asked.prompt)
                if not self._make_room(asked.prompt, limit):
                    return
                assert self._rows is not None, "there is room"
                begin = time.perf_counter()
                scores = self._rows.read(row, asked.prompt)
                now = time.perf_counter()
                growing = _Growing(asked, limit, TextStream(self._opened.tokenizer), now - begin, now)
                self._growing[row] = growing
                self._next = next(self._rest, None)
                yield from self._take(row, growing, scores)

    def _make_room(self, prompt: Inputs, limit: int) -> bool:
        model = self._opened.model
        # the last token of an answer is never read
        needed = [length + limit - 1 for length in model.layer_lengths(prompt)]
        if self._rows is not None and all(map(int.__le__, needed, self._lengths)):
            return True
        if any(growing is not None for growing in self._growing):
            return False
        # rounded up, so that a file of ever longer prompts does not make new rows for each
        known = self._lengths or needed
        self._lengths = [1 << (max(both) - 1).bit_length() for both in zip(needed, known, strict=True)]
        refuse_too_long(model, self._lengths, len(self._growing), self._respondent.max_new_tokens)
        # the holistic embedding may read more tokens than the language model
        hd_room = None if self._lengths[0] == self._lengths[-1] else self._lengths[0]
        self._rows = None
        self._rows = Rows(model, len(self._growing), room=self._lengths[-1], hd_room=hd_room)
        return True

    def _take(self, row: int, growing: _Growing, scores: Float[Tensor, " V"]) -> Iterator[tuple[int, Report]]:
        """The next token of an answer, and the report if it was the last."""
        opened, asked = self._opened, growing.asked
        growing.token = choose(scores[: len(opened.tokenizer)], self._respondent.sampling, asked.generator)
        growing.num_new += 1
        is_end = growing.token in opened.stop_ids
        if not is_end:
            growing.pieces.append(growing.stream.push(growing.token))
        if not is_end and growing.num_new < growing.limit:
            return
        growing.pieces.append(growing.stream.rest())
        assert self._rows is not None, "it grows in them"
        self._rows.free(row)
        self._growing[row] = None
        seconds, num_more = time.perf_counter() - growing.begin, growing.num_new - 1
        prompt = asked.prompt
        yield (
            asked.place,
            Report(
                text="".join(growing.pieces),
                stopped_at=self._respondent.stopped_at(growing.token, growing.limit),
                num_prompt_tokens=prompt.tokens.shape[1],
                num_read_tokens=prompt.tokens.shape[1],
                template=self._respondent.template,
                num_tiles=0 if prompt.pixel_values is None else len(prompt.pixel_values),
                num_new_tokens=growing.num_new,
                prompt_s=growing.read_s,
                tokens_per_s=num_more / seconds if num_more else None,
                steps=self._rows.how,
                memory=(),
            ),
        )
