"""Plain text in fixed-length chunks; every token but the first of a chunk is a target.

Without a folder, the text is documentation that comes with Python: the topics of `help()`, which are its language
reference, and the docstrings of the standard library.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.contents import Content, contents_of
from lab.core.data.documents import digest_of, documents_in, documents_of_python, files_of, kind_of
from lab.core.data.picture_format import IMAGENET
from lab.core.data.sample import Sample
from lab.core.data.source_spec import SourceRequest, SourceSpec
from lab.core.data.stream import SPLITS
from lab.core.data.token_cache import TokenStore, token_store
from lab.core.errors import InputError
from lab.core.ranges import LARGEST_COUNT, refuse_outside
from lab.core.streams import say
from lab.core.tokenizer import Tokenizer
from lab.core.validation import number_in_unit_interval

# Letters: n documents, T tokens of a piece, S side of a tile in pixels.

_KIND = "next token"
# between the share of the tokens that is asked for and that of the documents which a hash has chosen
_FACTOR = 3.0

_log = logging.getLogger(__name__)


class SplitBy(Enum):
    """What is held out: whole documents, chosen by a hash, or the end of the text."""

    document = "document"
    position = "position"


@dataclass(kw_only=True, slots=True)
class TextConfig:
    """Where the text comes from, how it is cut, and how much of it is held out."""

    folder: Path | None = None
    """A file, or a folder whose *.txt, *.md, *.rst, *.jsonl and *.parquet files are read recursively, and *.json
    files of JSON lines; null: documentation that comes with Python."""
    piece_length: int = 128
    """T, tokens of a sample."""
    held_out_share: float = 0.1
    """Share of the text that training never sees."""
    split_by: SplitBy | None = None
    """document (chosen by a hash, so they stay the same when files are added), or position (the end of the text is held
    out); null: document, but position where one of the splits had no piece then, or was three times as large or small
    as asked for, since some documents are much larger than others."""

    def __post_init__(self) -> None:
        number_in_unit_interval("held_out_share", self.held_out_share)
        refuse_outside(
            self, "piece_length", at_least=2, at_most=LARGEST_COUNT, hint="a piece is tokens and the next ones"
        )


class Texts:
    """The pieces of one split, cut from its documents one behind the other.

    If the tokenizer begins sequences with a token, so does each piece.
    """

    def __init__(self, config: TextConfig, *, split: str, tokenizer: Tokenizer, image_size: int) -> None:
        """Find the pieces of a split.

        Args:
            config: which documents.
            split: `train` or `test`.
            tokenizer: of the model.
            image_size: tile size, used only for the shape of the empty image batch.

        Raises:
            InputError: if a file cannot be read, the split has less than one piece, or there is no such split.
        """
        if split not in SPLITS:
            raise InputError(f"split={split!r} must be one of {', '.join(SPLITS)}; choose one")
        self._image_size = image_size
        self._start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        # tokens of the text in a piece
        self._length = config.piece_length - len(self._start)
        self._store = _store(config.folder, tokenizer)
        held_out = self._store.held_out(config.held_out_share)
        is_test = split == "test"
        by_document = _by_document(config, self._lengths, held_out, self._length)
        if by_document:
            self._choose(held_out == is_test)
            self._first, self._num_pieces = 0, int(self._ends[-1]) // self._length
        else:
            self._choose(np.ones(len(held_out), np.bool_))
            num_pieces = int(self._ends[-1]) // self._length
            num_test = max(1, round(config.held_out_share * num_pieces)) if num_pieces > 1 else 0
            self._first = num_pieces - num_test if is_test else 0
            self._num_pieces = num_test if is_test else num_pieces - num_test
        _say_split(config, self._lengths, held_out, by_document=by_document)
        if not self._num_pieces:
            raise InputError(
                f"{config.folder or 'the documentation of Python'} holds {int(self._ends[-1])} tokens of the split "
                f"{split}, less than one piece; lower piece_length={config.piece_length}, or change "
                f"held_out_share={config.held_out_share:g}"
            )

    @property
    def _lengths(self) -> Int64[ndarray, " n"]:
        return np.diff(self._store.starts)

    def _choose(self, is_chosen: Bool[ndarray, " n"]) -> None:
        """Keep where the chosen documents begin among all tokens, and where they end among their own."""
        self._begins = self._store.starts[:-1][is_chosen]
        self._ends = np.concatenate(([0], np.cumsum(self._lengths[is_chosen])))

    def __len__(self) -> int:
        return self._num_pieces

    def __getitem__(self, index: int) -> Sample:
        """A piece; each of its tokens but the first is an answer."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = (self._first + index) * self._length
        ids = np.array([*self._start, *self._tokens(place, place + self._length)], dtype=np.int64)
        labels = ids.copy()
        labels[0] = IGNORED
        answers = tuple((place, place + 1) for place in range(1, len(ids)))
        tiles = np.empty((0, self._image_size, self._image_size, 3), np.uint8)
        return Sample(tiles, Conversation(ids, ids, labels, answers), (_KIND,) * len(answers), IMAGENET)

    def _tokens(self, start: int, stop: int) -> list[int]:
        """Some tokens of the chosen documents, which may be parts of several."""
        found: list[int] = []
        document = int(np.searchsorted(self._ends, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self._ends[document + 1]))
            begin = int(self._begins[document]) + start - int(self._ends[document])
            found += self._store.ids[begin : begin + end - start].tolist()
            start, document = end, document + 1
        return found


def _by_document(config: TextConfig, lengths: Int64[ndarray, " n"], held_out: Bool[ndarray, " n"], length: int) -> bool:
    if config.split_by is not None:
        return config.split_by is SplitBy.document
    return _is_as_asked(config, lengths, held_out) and all(
        lengths[held_out == is_test].sum() >= length for is_test in (False, True)
    )


def _is_as_asked(config: TextConfig, lengths: Int64[ndarray, " n"], held_out: Bool[ndarray, " n"]) -> bool:
    """Whether both splits have about the share of the tokens that was asked for, if documents are held out."""
    found = _share(lengths, held_out)
    asked = config.held_out_share
    return all(want <= _FACTOR * have <= _FACTOR**2 * want for want, have in ((asked, found), (1 - asked, 1 - found)))


def _share(lengths: Int64[ndarray, " n"], held_out: Bool[ndarray, " n"]) -> float:
    return float(lengths[held_out].sum() / max(lengths.sum(), 1))


def _say_split(
    config: TextConfig, lengths: Int64[ndarray, " n"], held_out: Bool[ndarray, " n"], *, by_document: bool
) -> None:
    """Log how a text is divided; say it where documents are not, or not evenly, divided as asked for."""
    num_tokens, share = int(lengths.sum()), _share(lengths, held_out)
    place = config.folder or "the documentation of Python"
    asked, whole = f"held_out_share={config.held_out_share:g}", f"{num_tokens:,} tokens in {len(lengths):,} documents"
    if by_document:
        words = f"{place}: of {whole}, {int(lengths[held_out].sum()):,} ({share:.1%}) are held out, by document"
        hint = f", not {asked}; split_by=position holds out the end of the text"
    else:
        words = f"{place}: of {whole}, the last {config.held_out_share:.1%} are held out"
        hint = f", since whole documents would be {share:.1%}; split_by=document holds those out"
    is_odd = (
        len(lengths) > 1 and config.split_by is not SplitBy.position and not _is_as_asked(config, lengths, held_out)
    )
    _say_once(f"{words}{hint}" if is_odd else words, is_odd)


# both splits, and every stage of a run, open the same text
@lru_cache
def _say_once(words: str, is_odd: bool) -> None:
    (say if is_odd else _log.info)(words)


def _store(folder: Path | None, tokenizer: Tokenizer) -> TokenStore:
    if folder is None:
        return token_store(documents_of_python, [_content_of_python()["digest"]], tokenizer)
    digests = [f"{kind_of(path)} {digest_of(path)}" for path in files_of(folder)]
    return token_store(lambda: documents_in(folder), digests, tokenizer)


def _content_of_python() -> Content:
    content = "\0".join(documents_of_python()).encode()
    return Content(path=os.path.dirname(os.__file__), bytes=len(content), digest=hashlib.sha256(content).hexdigest())


def _contents(options: TextConfig) -> dict[str, Content]:
    if options.folder is None:
        return {"the documentation of Python": _content_of_python()}
    # read already, for the token ids
    return contents_of(files_of(options.folder), digest_of)


def _open(options: TextConfig, request: SourceRequest) -> Texts:
    image_size = request.prompt_format.image_size
    return Texts(options, split=request.split, tokenizer=request.tokenizer, image_size=image_size)


def _refuse_missing(options: TextConfig) -> None:
    if options.folder is not None:
        for path in files_of(options.folder):
            kind_of(path)


SOURCE = SourceSpec(kind="text", options=TextConfig, open=_open, refuse_missing=_refuse_missing, contents=_contents)
