"""Conversations about pictures from a JSONL file, as InternVL keeps them.

A line is an object with `conversations`, a list of objects whose `value` is a question, an answer, a question, ...
(the place in the list says whose turn it is, not the key `from`), and possibly `image`, the path of a picture or a list
of them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from lab.core.data.chat_template import encode_conversation
from lab.core.data.prompt_format import PromptFormat
from lab.core.data.sample import Sample, is_held_out
from lab.core.data.source_spec import SourceRequest, SourceSpec
from lab.core.data.stream import SPLITS
from lab.core.data.tiling import cut_tiles, load_image
from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special
from lab.core.tokenizer import Tokenizer
from lab.core.validation import number_in_unit_interval

# Letters: N tiles, S side of a tile in pixels.


@dataclass(kw_only=True, slots=True)
class ConversationFileConfig:
    """Where the conversations and their images are, and how many of them are held out."""

    path: Path
    """The JSONL file."""
    image_folder: Path
    """Folder that the image paths are relative to."""
    held_out_share: float = 0.01
    """Share of the samples that training never sees; chosen by a hash, so they stay the same when the file grows."""

    def __post_init__(self) -> None:
        number_in_unit_interval("held_out_share", self.held_out_share)


class ConversationFile:
    """One split of a file of conversations; samples are read on access.

    Samples with the same images are in the same split.
    """

    def __init__(
        self,
        config: ConversationFileConfig,
        *,
        split: str,
        tokenizer: Tokenizer,
        prompt_format: PromptFormat,
    ) -> None:
        """Find the lines of a split.

        Raises:
            InputError: if the file is missing or holds no sample of the split, or there is no such split.
        """
        if split not in SPLITS:
            raise InputError(f"split={split!r} must be one of {', '.join(SPLITS)}; choose one")
        self._config = config
        self._tokenizer = tokenizer
        self._prompt_format = prompt_format
        self._numbers, self._offsets = _find_lines(config, split)
        if not len(self._offsets):
            raise InputError(f"{config.path} holds no {split} sample; change held_out_share={config.held_out_share:g}")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        """A sample, its pictures cut into tiles.

        Raises:
            InputError: naming the line, if it is no conversation or a picture of it cannot be read.
        """
        with open(self._config.path, "rb") as file:
            file.seek(self._offsets[index])
            line = file.readline()
        try:
            return self._read(line)
        except InputError as error:
            raise InputError(f"{self._config.path}, line {self._numbers[index]}: {error}") from None

    def _read(self, line: bytes) -> Sample:
        record = _parse(line)
        turns = _turns(record)
        images = [load_image(self._config.image_folder / path) for path in _image_paths(record)]
        tiles = [cut_tiles(image, self._prompt_format) for image in images]
        conversation = encode_conversation(
            turns, [len(cut) for cut in tiles], tokenizer=self._tokenizer, prompt_format=self._prompt_format
        )
        return Sample(_joined(tiles, self._prompt_format.image_size), conversation, ("answer",) * (len(turns) // 2))


def _find_lines(config: ConversationFileConfig, split: str) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " n"]]:
    """Line number and byte offset of every line of a split; blank lines are skipped."""
    numbers, offsets = [], []
    position = 0
    refuse_special(config.path, InputError)
    try:
        with open(config.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip() and is_held_out(_key(line), config.held_out_share) == (split == "test"):
                    numbers.append(number)
                    offsets.append(position)
                position += len(line)
    except OSError as error:
        raise InputError(f"{config.path} cannot be read ({error.strerror}); give the path of a JSONL file") from None
    return np.array(numbers, dtype=np.int64), np.array(offsets, dtype=np.int64)


def _key(line: bytes) -> bytes:
    """What decides the split of a sample: its image paths, or the line itself if it has no images."""
    try:
        return "\n".join(_image_paths(_parse(line))).encode() or line.strip()
    except InputError:
        # a broken line is reported when it is read
        return line.strip()


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    # lists in lists without end, too
    except (ValueError, RecursionError):
        raise InputError("is not valid JSON; repair the line") from None
    if not isinstance(record, dict):
        raise InputError("is not a JSON object; repair the line")
    return record


def _turns(record: dict[str, Any]) -> list[str]:
    spoken = record.get("conversations")
    turns = [turn.get("value") for turn in spoken if isinstance(turn, dict)] if isinstance(spoken, list) else []
    texts = [turn for turn in turns if isinstance(turn, str)]
    if not isinstance(spoken, list) or not texts or len(texts) % 2 or len(texts) < len(spoken):
        raise InputError("conversations must list pairs of question and answer, each with a value; repair the line")
    return texts


def _image_paths(record: dict[str, Any]) -> list[str]:
    value = record.get("image") or []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InputError("image is neither a path nor a list of paths; repair the line")
    return paths


def _joined(tiles: Iterable[UInt8[ndarray, "_ S S 3"]], side: int) -> UInt8[ndarray, "N S S 3"]:
    return np.concatenate([np.empty((0, side, side, 3), np.uint8), *tiles])


def _open(options: ConversationFileConfig, request: SourceRequest) -> ConversationFile:
    return ConversationFile(
        options, split=request.split, tokenizer=request.tokenizer, prompt_format=request.prompt_format
    )


SOURCE = SourceSpec(kind="conversations", options=ConversationFileConfig, open=_open)
