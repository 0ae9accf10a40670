"""Every sample of files of conversations is read once: all faults, lengths and tiles."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from lab.core.data.bad_samples import LeftOut, Reason, reason_of
from lab.core.data.conversations import Conversations, ConversationsConfig, refuse_missing
from lab.core.data.prompt_format import IMAGE_CONTEXT, PromptFormat
from lab.core.data.stream import FiniteSource, place_of
from lab.core.errors import InputError
from lab.core.models.config import max_length
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.data import PromptConfig, prompt_format
from lab.experiments.distill.load import find_model
from lab.experiments.distill.selector import selected
from lab.experiments.distill.usable import refuse_unusable


class _NoWords:
    """A tokenizer for where no teacher is named: any text is one id, so that everything but lengths can be checked."""

    bos_id = eos_id = chat = None

    def __len__(self) -> int:
        return 2

    def encode(self, text: str) -> list[int]:
        pieces = re.split(f"({re.escape(IMAGE_CONTEXT)})", text)
        return [int(piece == IMAGE_CONTEXT) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(IMAGE_CONTEXT if index else "" for index in ids)

    def id_of(self, token: str) -> int:
        return int(token == IMAGE_CONTEXT)


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        max_length: tokens that a sample may have; None if no teacher was named.
        faults: of samples that cannot be used, in the order of the files; those that are too long are among them.
        tokens: of each sample that can be read, in the longer of its two sequences; empty without a teacher.
        tiles: of the same samples.
        refusal: why a run would not take the files; None if it would, leaving out what is faulty.
    """

    max_length: int | None
    faults: list[LeftOut] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    tiles: list[int] = field(default_factory=list)
    refusal: str | None = None

    @property
    def num_samples(self) -> int:
        """All samples."""
        return len(self.tiles) + sum(self.counts[reason] for reason in self.counts if reason != Reason.too_long.value)

    @property
    def counts(self) -> dict[str, int]:
        """Faults by reason, the most frequent first."""
        return dict(Counter(fault.reason.value for fault in self.faults).most_common())

    @property
    def share_too_long(self) -> float:
        """The fraction of readable samples that are longer than `max_length`."""
        return self.counts.get(Reason.too_long.value, 0) / max(len(self.tokens), 1)

    def content(self) -> dict[str, object]:
        """For JSON."""
        return {
            "samples": self.num_samples,
            "usable": self.num_samples - len(self.faults),
            "counts": self.counts,
            "refusal": self.refusal,
            "max_length": self.max_length,
            "share_above_max_length": self.share_too_long if self.tokens else None,
            "tokens": _spread(self.tokens),
            "tiles": _spread(self.tiles),
            "faults": [
                {
                    "file": fault.place.file,
                    "line": fault.place.number,
                    "reason": fault.reason.value,
                    "error": fault.error,
                }
                for fault in self.faults
            ],
        }

    def lines(self) -> list[str]:
        """For people: each fault, then counts and lengths."""
        named = [
            f"{fault.place.file}:{fault.place.number}: {fault.reason.value}: {fault.error}" for fault in self.faults
        ]
        counts = ", ".join(f"{reason} {count:,}" for reason, count in self.counts.items())
        usable = self.num_samples - len(self.faults)
        found = [*named, f"{self.num_samples:,} samples, {usable:,} usable{': ' * bool(counts)}{counts}"]
        for name, values in (("tokens", self.tokens), ("tiles", self.tiles)):
            spread = _spread(values)
            if spread is not None:
                found.append(f"{name}: " + ", ".join(f"{key} {value:,}" for key, value in spread.items()))
        if self.tokens:
            found.append(f"above max_length={self.max_length:,}: {100 * self.share_too_long:.3g} %")
        return found


def check_conversations(
    path: Path,
    *,
    image_folder: Path | None = None,
    teacher: str | None = None,
    limit: int | None = None,
    max_tiles: int | None = None,
    held_out_share: float | None = None,
) -> Findings:
    """Read every sample once.

    Args:
        path: as data.conversations.path.
        image_folder: as data.conversations.image_folder.
        teacher: a model as `find_model` takes it, whose tokenizer counts tokens; None to check everything but lengths.
        limit: tokens that a sample may have; None for what the teacher's run allowed, or else its context length.
        max_tiles: as prompt.max_tiles; None for as many as in the teacher's training, or else as a run's default.
        held_out_share: as data.conversations.held_out_share; None for its default.

    Raises:
        LabError: if the files or the teacher cannot be read at all.
    """
    config = ConversationsConfig(path=path, image_folder=image_folder)
    if held_out_share is not None:
        config = replace(config, held_out_share=held_out_share)
    refuse_missing(config)
    prompt, longest = PromptConfig(max_tiles=max_tiles or PromptConfig().max_tiles), None
    written = PromptFormat(max_tiles=prompt.max_tiles)
    tokenizer: Tokenizer = _NoWords()
    if teacher is not None:
        model = find_model(*selected(teacher))
        prompt = replace(model.prompt, max_tiles=max_tiles or model.trained_tiles or prompt.max_tiles)
        written, tokenizer = prompt_format(prompt, model.architecture), model.tokenizer
        longest = limit or model.prompt.max_length or max_length(model.architecture)
    open_split = partial(Conversations, tokenizer=tokenizer, prompt_format=written)
    source = open_split(replace(config, held_out_share=0.0), split="train")
    found = Findings(longest)
    for index in source.distinct():
        try:
            sample = source[index]
        except InputError as error:
            found.faults.append(LeftOut(source.place(index), reason_of(error), str(error)))
            continue
        found.tiles.append(len(sample.tiles))
        if longest is not None:
            length = max(len(sample.conversation.llm_ids), len(sample.conversation.embedding_ids))
            found.tokens.append(length)
            if length > longest:
                why = f"it has {length} tokens, more than max_length={longest}"
                found.faults.append(LeftOut(source.place(index), Reason.too_long, why))
    errors = {fault.place: fault.error for fault in found.faults}

    def errors_of(source: FiniteSource, places: range) -> list[str]:
        where = [place_of(source, index) for index in places]
        return [errors[place] for place in where if place in errors]

    try:
        refuse_unusable(lambda split: open_split(config, split=split), errors_of)
    except InputError as error:
        found.refusal = str(error)
    return found


def _spread(values: Sequence[int]) -> dict[str, int] | None:
    if not values:
        return None
    points = np.percentile(values, [0, 50, 90, 99, 100], method="higher").astype(int).tolist()
    return {"total": sum(values), **dict(zip(("least", "median", "90 %", "99 %", "most"), points, strict=True))}
