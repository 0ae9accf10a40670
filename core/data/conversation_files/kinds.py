"""Which format a file of conversations has, seen from its content, and its index; which files a path stands for."""

import json
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lab.core.data.conversation_files.json_list import JsonList
from lab.core.data.conversation_files.jsonl import JsonLines
from lab.core.data.conversation_files.parquet import ParquetRows
from lab.core.data.conversation_files.record import CONVERSATION_KEYS
from lab.core.data.conversation_files.spec import ConversationFile
from lab.core.data.conversation_files.tar import TarShard
from lab.core.data.files_below import compression_of, files_below, say_others, start_of, unreadable
from lab.core.data.pixels import ENDINGS
from lab.core.data.sample import is_held_out
from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_special

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# of a folder, those of one kind
_SUFFIXES = (".jsonl", ".parquet", ".tar", ".json")
# as much of a file as is looked at; a meta file is never larger
_LOOKED_AT = 1 << 24
_GIVE = "a file of conversations: JSONL, a JSON list, Parquet or tar"
_ANNOTATION = "annotation"


def files_in(path: Path) -> list[Path]:
    """The files of a folder, sorted by name; a file itself.

    Raises:
        InputError: if a folder holds none, several kinds, or a compressed one, or cannot be read.
    """
    if not path.is_dir():
        return [path]
    files, others = files_below(path, _SUFFIXES)
    found = {suffix: [each for each in files if each.suffix.lower() == suffix] for suffix in _SUFFIXES}
    kinds = [suffix for suffix in _SUFFIXES if found[suffix]]
    # beside data there are often JSON files about them
    if len(kinds) > 1 and kinds[-1] == ".json" and all(_is_about(each) for each in found[".json"]):
        kinds.pop()
    if len(kinds) != 1:
        what = f"files {' and '.join(f'*{kind}' for kind in kinds)}" if kinds else "no file"
        raise InputError(f"{path} holds {what}; give one file, or a folder of one of {', '.join(_SUFFIXES)}")
    others += [each for kind in _SUFFIXES if kind != kinds[0] for each in found[kind]]
    say_others(path, len(found[kinds[0]]), tuple(each for each in others if each.suffix.lower()[1:] not in ENDINGS))
    return found[kinds[0]]


def _is_about(path: Path) -> bool:
    """Whether a JSON file is one object without a conversation or a list of data sets, such as dataset_info.json."""
    content = _parsed(start_of(path, _LOOKED_AT, give=_GIVE), path)
    return isinstance(content, dict) and not (
        content.keys() & set(CONVERSATION_KEYS) or any(_is_entry(each) for each in content.values())
    )


def meta_of(path: Path) -> dict[str, Any] | None:
    """The data sets that a file of InternVL's kind lists; None if it is not such a file.

    Raises:
        InputError: if it cannot be read.
    """
    start = start_of(path, _LOOKED_AT, give=_GIVE)
    if not start.removeprefix(_BOM).lstrip().startswith(b"{"):
        return None
    first, _, rest = start.partition(b"\n")
    content = _parsed(first, path)
    if content is None:
        content = _parsed(start, path)
    elif rest.strip():
        # lines of JSON
        return None
    is_meta = isinstance(content, dict) and any(_is_entry(entry) for entry in content.values())
    return content if is_meta else None


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and _ANNOTATION in value


def _parsed(content: bytes, path: Path) -> Any:
    """What JSON describes; None if it is none."""

    def collected(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        # of two with one name, JSON keeps the last
        if len(found) < len(pairs) and (_is_entry(found) or any(_is_entry(value) for _, value in pairs)):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path} has the key {double} twice; rename one of them")
        return found

    try:
        return json.loads(content, object_pairs_hook=collected)
    except InputError:
        raise
    except (ValueError, RecursionError):
        return None


def open_file(path: Path, share: float) -> ConversationFile:
    """The index of a file, made once in a process.

    Args:
        path: of a file that is not a list of data sets.
        share: of the samples that are held out.

    Raises:
        InputError: if it cannot be read, is compressed, or damaged.
    """
    refuse_special(path, InputError)
    try:
        status = path.stat()
        return _indexed(path, share, (status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError as error:
        raise unreadable(path, error, give=_GIVE) from None


def refuse_missing_file(path: Path) -> None:
    """Refuse a file that cannot be opened.

    Raises:
        InputError: saying why.
    """
    start_of(path, 1, give=_GIVE)


# a run opens its data again for each stage and split
@lru_cache(maxsize=4096)
def _indexed(path: Path, share: float, version: Sequence[int]) -> ConversationFile:
    def held_out(key: bytes) -> bool:
        return is_held_out(key, share)

    start = start_of(path, 1 << 10, give=_GIVE).removeprefix(_BOM).lstrip()
    if (name := compression_of(start)) is not None:
        raise InputError(f"{path} is compressed ({name}); unpack it")
    if start.startswith(b"PAR1"):
        return ParquetRows(path, held_out)
    if start[257:262] == b"ustar" or (path.suffix == ".tar" and tarfile.is_tarfile(path)):
        return TarShard(path, held_out)
    # lines of two bytes a character are cut in the middle of one, and some can be read all the same
    if start.startswith(_UTF_16) or (b"\0" in start[:2] and start.strip(b"\0")):
        raise InputError(f"{path} is text in UTF-16 or UTF-32; save it as UTF-8")
    return JsonList(path, held_out) if start.startswith(b"[") else JsonLines(path, held_out)
