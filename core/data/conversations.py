"""Conversations about pictures from files of the user, in the formats of `conversation_files`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray

from lab.core.data.bad_samples import BadSample, Place, Reason, reason_of
from lab.core.data.contents import Content, contents_of
from lab.core.data.conversation import encode
from lab.core.data.conversation_files.kinds import open_file, refuse_missing_file
from lab.core.data.conversation_files.meta import DataSet, data_sets
from lab.core.data.conversation_files.record import said
from lab.core.data.conversation_files.spec import ConversationFile
from lab.core.data.prompt_format import PromptFormat
from lab.core.data.sample import Sample
from lab.core.data.source_spec import SourceRequest, SourceSpec
from lab.core.data.stream import SPLITS
from lab.core.data.tiling import cut_tiles, load_image, read_image
from lab.core.errors import ConfigError, InputError
from lab.core.tokenizer import Tokenizer
from lab.core.validation import number_in_unit_interval

# Letters: N tiles, S side of a tile in pixels, n samples of a file in one split.


@dataclass(kw_only=True, slots=True)
class ConversationsConfig:
    """Where the conversations and their images are, and how many of them are held out."""

    path: Path
    """A JSONL file, a JSON list, a Parquet table, a tar shard, a folder of one of these, or a JSON file that lists data
    sets (docs/data.md)."""
    image_folder: Path | None = None
    """Folder that the paths of images are relative to; null: that of the file, or `path` itself if it is a folder."""
    held_out_share: float = 0.01
    """Share of the samples that training never sees; chosen by a hash, so they stay the same when the file grows."""

    def __post_init__(self) -> None:
        number_in_unit_interval("held_out_share", self.held_out_share)


@dataclass(frozen=True, slots=True)
class _Part:
    """The samples of one file in one split.

    Attributes:
        file: where they are.
        chosen: which of the file's samples.
        count: how many an epoch has: some may come more than once.
        image_folder: that paths of pictures are relative to.
        prompt_format: of its samples.
    """

    file: ConversationFile
    chosen: Integer[ndarray, " n"]
    count: int
    image_folder: Path
    prompt_format: PromptFormat


class Conversations:
    """One split of files of conversations; samples are read on access.

    Samples with the same images are in the same split.
    """

    def __init__(
        self,
        config: ConversationsConfig,
        *,
        split: str,
        tokenizer: Tokenizer,
        prompt_format: PromptFormat,
    ) -> None:
        """Index the files.

        Raises:
            InputError: if a file is missing or damaged, there is no sample of the split, or no such split.
        """
        if split not in SPLITS:
            raise InputError(f"split={split!r} must be one of {', '.join(SPLITS)}; choose one")
        self._tokenizer = tokenizer
        sets = data_sets(config.path, config.image_folder)
        found = [_parts(each, config.held_out_share, split, prompt_format) for each in sets]
        for each, parts in zip(sets, found, strict=True):
            _refuse_empty(each, parts, config, split)
        if split == "train" and sets[0].weight is not None:
            found = _weighted(found, [each.weight or 0.0 for each in sets])
            for each, parts in zip(sets, found, strict=True):
                if not sum(part.count for part in parts):
                    raise InputError(
                        f"{config.path}: {each.name}: weight={each.weight:g} is less than one sample of an epoch; "
                        "raise it"
                    )
        self._parts = [part for parts in found for part in parts if part.count]
        if not self._parts:
            raise InputError(
                f"{config.path} holds no {split} sample; "
                f"{'raise' if split == 'test' else 'lower'} held_out_share={config.held_out_share:g}"
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample:
        """A sample, its pictures cut into tiles.

        Raises:
            InputError: naming the place, if it is not a conversation or a picture of it cannot be read.
        """
        part, inside = self._find(index)
        try:
            return self._read(part, inside)
        except InputError as error:
            raise BadSample(f"{_place(part, inside)}: {error}", reason_of(error)) from None

    def distinct(self) -> Iterator[int]:
        """The samples of an epoch, each once."""
        for start, part in zip(self._starts, self._parts, strict=False):
            yield from range(int(start), int(start) + min(part.count, len(part.chosen)))

    def place(self, index: int) -> Place:
        """The file and line of a sample."""
        return _place(*self._find(index))

    @cached_property
    def _starts(self) -> Integer[ndarray, " parts"]:
        return np.cumsum([0, *(part.count for part in self._parts)])

    def _find(self, index: int) -> tuple[_Part, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        part = self._parts[number]
        return part, int(part.chosen[(index - int(self._starts[number])) % len(part.chosen)])

    def _read(self, part: _Part, inside: int) -> Sample:
        spoken = said(part.file.read(inside))
        prompt_format = part.prompt_format
        if spoken.system is not None:
            try:
                prompt_format = replace(prompt_format, system=spoken.system)
            except ConfigError as error:
                raise BadSample(str(error), Reason.wrong_conversation) from None
        images = [
            load_image(part.image_folder / picture)
            if isinstance(picture, str)
            else read_image(BytesIO(picture), f"image {number}")
            for number, picture in enumerate(spoken.pictures, start=1)
        ]
        tiles = [cut_tiles(image, prompt_format) for image in images]
        conversation = encode(
            spoken.turns, [len(cut) for cut in tiles], tokenizer=self._tokenizer, prompt_format=prompt_format
        )
        kinds = ("answer",) * (len(spoken.turns) // 2)
        return Sample(_joined(tiles, prompt_format.image_size), conversation, kinds, prompt_format.colours)


def _place(part: _Part, inside: int) -> Place:
    return Place(str(part.file.path), part.file.number(inside), part.file.unit)


def _parts(each: DataSet, share: float, split: str, prompt_format: PromptFormat) -> list[_Part]:
    if each.max_tiles is not None:
        prompt_format = replace(prompt_format, max_tiles=each.max_tiles)
    files = [open_file(path, share) for path in each.files]
    lengths = [len(file) for file in files]
    share_read = min(each.repeat, 1.0)
    num_read = _rounded([share_read * length for length in lengths], int(share_read * sum(lengths)))
    chosen = [
        np.flatnonzero(file.held_out[:first] == (split == "test")) for file, first in zip(files, num_read, strict=True)
    ]
    repeat = max(each.repeat, 1.0) if split == "train" else 1.0
    num_chosen = [repeat * len(indices) for indices in chosen]
    counts = _rounded(num_chosen, round(sum(num_chosen)))
    return [
        # half of the memory where it is enough
        _Part(
            file, indices.astype(np.uint32) if len(file) < 2**32 else indices, count, each.image_folder, prompt_format
        )
        for file, indices, count in zip(files, chosen, counts, strict=True)
    ]


def _rounded(numbers: list[float], total: int) -> list[int]:
    """Whole numbers with the sum `total`, each a number rounded: up where most is lost otherwise, those first."""
    found = [int(number) for number in numbers]
    most_lost = sorted(range(len(numbers)), key=lambda place: found[place] - numbers[place])
    for place in most_lost[: max(total - sum(found), 0)]:
        found[place] += 1
    return found


def _refuse_empty(each: DataSet, parts: list[_Part], config: ConversationsConfig, split: str) -> None:
    """Refuse a data set of a list of which nothing would be read, and files without a sample."""
    num_samples = sum(len(part.file) for part in parts)
    label = f"{config.path}: {each.name}" if each.name else str(config.path)
    if num_samples == 0:
        raise InputError(f"{label} holds no sample; give conversations, or leave it out")
    if not int(each.repeat * num_samples):
        raise InputError(f"{label}: repeat_time={each.repeat:g} reads none of its {num_samples} samples; raise it")
    if each.name and split == "train" and not any(part.count for part in parts):
        raise InputError(
            f"{label}: all that is read of its {num_samples} samples is held out; lower "
            f"held_out_share={config.held_out_share:g}, or leave the data set out"
        )


def _weighted(found: list[list[_Part]], weights: list[float]) -> list[list[_Part]]:
    """The parts of each data set with as many samples in an epoch as its weight says; the epoch keeps its length."""
    counts = [sum(part.count for part in parts) for parts in found]
    length = sum(counts)
    shares = _rounded([length * weight / sum(weights) for weight in weights], length)
    return [
        [
            replace(part, count=count)
            for part, count in zip(parts, _rounded([share * part.count / whole for part in parts], share), strict=True)
        ]
        for parts, whole, share in zip(found, counts, shares, strict=True)
    ]


def _joined(tiles: Iterable[UInt8[ndarray, "_ S S 3"]], side: int) -> UInt8[ndarray, "N S S 3"]:
    return np.concatenate([np.empty((0, side, side, 3), np.uint8), *tiles])


def _open(options: ConversationsConfig, request: SourceRequest) -> Conversations:
    return Conversations(options, split=request.split, tokenizer=request.tokenizer, prompt_format=request.prompt_format)


def refuse_missing(options: ConversationsConfig) -> None:
    """Refuse files that do not exist, and a list of data sets that is wrong.

    Raises:
        InputError: naming the file, or the entry.
    """
    for each in data_sets(options.path, options.image_folder):
        for path in each.files:
            refuse_missing_file(path)


def _contents(options: ConversationsConfig) -> dict[str, Content]:
    # a list of data sets decides too how often each is read
    lists = [] if options.path.is_dir() else [options.path]
    files = [path for each in data_sets(options.path, options.image_folder) for path in each.files]
    return contents_of([*lists, *files])


SOURCE = SourceSpec(
    kind="conversations",
    options=ConversationsConfig,
    open=_open,
    refuse_missing=refuse_missing,
    contents=_contents,
)
