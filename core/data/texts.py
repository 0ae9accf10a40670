"""Plain text in fixed-length chunks; every token but the first of a chunk is a target.

Without a folder, the text is documentation that comes with Python: the topics of `help()`, which are its language
reference, and the docstrings of the standard library.
"""

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.sample import Sample, is_held_out
from lab.core.data.source_spec import SourceRequest, SourceSpec
from lab.core.data.stream import SPLITS
from lab.core.errors import InputError
from lab.core.ranges import LARGEST_COUNT, refuse_outside
from lab.core.tokenizer import Tokenizer
from lab.core.validation import number_in_unit_interval

# Letters: n pieces, T tokens of a piece, S side of a tile in pixels.

_SUFFIXES = frozenset({".md", ".rst", ".txt"})
_KIND = "next token"


@dataclass(kw_only=True, slots=True)
class TextConfig:
    """Where the text comes from, how it is cut, and how much of it is held out."""

    folder: Path | None = None
    """A folder whose *.txt, *.md and *.rst files are read recursively; null: documentation that comes with Python."""
    piece_length: int = 128
    """T, tokens of a sample."""
    held_out_share: float = 0.1
    """Share of the documents that training never sees; chosen by a hash, so they stay the same when files are added."""

    def __post_init__(self) -> None:
        number_in_unit_interval("held_out_share", self.held_out_share)
        refuse_outside(
            self, "piece_length", at_least=2, at_most=LARGEST_COUNT, hint="a piece is tokens and the next ones"
        )


class Texts:
    """The chunks of one split, cut from the concatenation of its documents."""

    def __init__(self, config: TextConfig, *, split: str, tokenizer: Tokenizer, image_size: int) -> None:
        """Read and cut the documents of a split.

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
        found = _documents_of_python() if config.folder is None else _documents_in(config.folder)
        chosen = [text for text in found if is_held_out(text.encode(), config.held_out_share) == (split == "test")]
        ids = np.array([index for text in chosen for index in tokenizer.encode(f"{text}\n\n")], dtype=np.int64)
        num_pieces = len(ids) // config.piece_length
        if not num_pieces:
            raise InputError(
                f"{config.folder or 'the documentation of Python'} holds {len(ids)} tokens of the split {split}, less "
                f"than one piece; lower piece_length={config.piece_length}, or change "
                f"held_out_share={config.held_out_share:g}"
            )
        self._pieces: Int64[ndarray, "n T"] = ids[: num_pieces * config.piece_length].reshape(num_pieces, -1)
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> Sample:
        """A chunk; each of its tokens but the first is an answer."""
        ids = self._pieces[index]
        labels = ids.copy()
        labels[0] = IGNORED
        answers = tuple((place, place + 1) for place in range(1, len(ids)))
        tiles = np.empty((0, self._image_size, self._image_size, 3), np.uint8)
        return Sample(tiles, Conversation(ids, ids, labels, answers), (_KIND,) * len(answers))


def _documents_in(folder: Path) -> list[str]:
    """The text of every file below a folder, in the order of their paths."""
    try:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
        texts = [path.read_text(encoding="utf-8") for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder} holds a file that is no UTF-8 text ({error}); remove it") from None
    if not texts:
        raise InputError(
            f"{folder} holds no file {', '.join(f'*{suffix}' for suffix in sorted(_SUFFIXES))}; name another"
        )
    return texts


# parsing takes seconds, and every stage of a run opens the data again
@cache
def _documents_of_python() -> tuple[str, ...]:
    """The topics of `help()`, then the docstrings of each module of the standard library; no module is imported."""
    from pydoc_data.topics import topics  # noqa: PLC0415

    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    joined = ("\n\n".join(_docstrings(ast.parse(path.read_bytes()))) for path in modules)
    return (*topics.values(), *(text for text in joined if text))


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """The docstrings of a module and of everything in it, dedented."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _open(options: TextConfig, request: SourceRequest) -> Texts:
    image_size = request.prompt_format.image_size
    return Texts(options, split=request.split, tokenizer=request.tokenizer, image_size=image_size)


SOURCE = SourceSpec(kind="text", options=TextConfig, open=_open)
