"""Documents in files of the user: text files, lines of JSONL and rows of Parquet; and the documentation of Python."""

import ast
import hashlib
import json
import sysconfig
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lab.core.data.files_below import compression_of, files_below, say_others, start_of, unreadable
from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special

# what a line or row holds its text under
_KEY = "text"
_PLAIN = frozenset({"", ".md", ".rst", ".txt"})
_LINES, _TABLE, _JSON = ".jsonl", ".parquet", ".json"
_SUFFIXES = (_PLAIN - {""}) | {_LINES, _TABLE}
_ROWS = 256
# as much of a first line as is looked at
_LOOKED_AT = 1 << 24
_GIVE = "a text file"


def files_of(path: Path) -> list[Path]:
    """A file, or every file with documents below a folder, in the order of their paths; see `files_below`.

    Raises:
        InputError: if there is none, a folder cannot be read, or a file is compressed.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError(f"{path} does not exist; give a text file, or a folder of them")
    paths, others = files_below(path, _SUFFIXES | {_JSON})
    # of JSON, lines with texts are read, as C4 names them
    about = [each for each in paths if each.suffix.lower() == _JSON and not _has_lines(each)]
    paths = [each for each in paths if each not in set(about)]
    if not paths:
        raise InputError(
            f"{path} holds no file {', '.join(f'*{suffix}' for suffix in sorted(_SUFFIXES))}; name another"
        )
    say_others(path, len(paths), tuple(about + others))
    return paths


def kind_of(path: Path) -> str:
    """How a file holds documents: `.jsonl` or `.parquet`; any other is the suffix of a file that is one document.

    The suffix says it, but for JSON lines under another one, which are seen from the first.

    Raises:
        InputError: if the file is compressed, is of no kind that is known, or cannot be read.
    """
    refuse_special(path, InputError)
    suffix = path.suffix.lower()
    start = start_of(path, 8, give=_GIVE)
    if (name := compression_of(start)) is not None:
        raise InputError(f"{path} is compressed ({name}); unpack it")
    if suffix in (_LINES, _TABLE):
        return suffix
    if _has_lines(path):
        return _LINES
    if suffix not in _PLAIN:
        raise InputError(
            f"{path} is no kind of text that is known by its ending {suffix}; rename it to *.txt if all of it is text, "
            f"or write its texts as JSON lines (*{_LINES}) or Parquet with a {_KEY} each"
        )
    return path.suffix


def documents_in(path: Path) -> Iterator[str]:
    """The text of a file, or of every file below a folder; of JSONL and Parquet, that of each line or row.

    Raises:
        InputError: if there is none, or one is not a text, naming file and line.
    """
    for each in files_of(path):
        kind = kind_of(each)
        if kind == _LINES:
            yield from _lines(each)
        elif kind == _TABLE:
            yield from _rows(each)
        else:
            try:
                # a mark of the byte order is not text
                yield each.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{each} is not UTF-8 text ({error}); remove it") from None


def _has_lines(path: Path) -> bool:
    """Whether the first line of a file is an object with a text."""
    if not start_of(path, 64, give=_GIVE).removeprefix(BOM_UTF8).lstrip().startswith(b"{"):
        return False
    first = start_of(path, _LOOKED_AT, give=_GIVE).removeprefix(BOM_UTF8).lstrip().partition(b"\n")[0]
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and isinstance(record.get(_KEY), str)


def digest_of(path: Path) -> str:
    """A digest of the content of a file; read once in a process, as long as it stays the same.

    Raises:
        InputError: if it cannot be read.
    """
    refuse_special(path, InputError)
    try:
        status = path.stat()
        return _digest(path, (status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError as error:
        raise unreadable(path, error, give=_GIVE) from None


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, version: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                # a mark of the byte order is not text
                line = line.removeprefix(BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield _text(line, f"{path}, line {number}")
    except OSError as error:
        raise unreadable(path, error, give=_GIVE) from None


def _text(line: bytes, place: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: is not valid JSON; repair the line") from None
    text = record.get(_KEY) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{place}: must be an object with a text under {_KEY}; repair the line")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}: its text has half of a character (\\ud800 to \\udfff); repair the line") from None
    return text


def _rows(path: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as table:
            if _KEY not in table.schema_arrow.names:
                raise InputError(
                    f"{path} has the columns {', '.join(table.schema_arrow.names)}, not {_KEY}; rename one"
                )
            number = 0
            for batch in table.iter_batches(_ROWS, columns=[_KEY]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if not isinstance(text, str):
                        raise InputError(f"{path}, row {number}: {_KEY} is not a text; repair it")
                    yield text
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path} is not a Parquet file that can be read ({str(error).splitlines()[0]}); copy it again"
        ) from None


# parsing takes seconds, and every stage of a run opens the data again
@cache
def documents_of_python() -> tuple[str, ...]:
    """The topics of `help()`, then the docstrings of each module of the standard library; no module is imported."""
    from pydoc_data.topics import topics  # noqa: PLC0415

    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    joined = ("\n\n".join(_docstrings(ast.parse(path.read_bytes()))) for path in modules)
    return (*topics.values(), *(text for text in joined if text))


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """The docstrings of a module and of everything in it, dedented; outer ones first."""
    waiting: deque[Any] = deque([tree])
    while waiting:
        node = waiting.popleft()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        # definitions stand in statements alone, which are few beside the expressions
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            waiting += getattr(node, part, ())
