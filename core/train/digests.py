"""Whether a checkpoint is as it was written: meta.json holds the digest of every file, and of itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.core.errors import CheckpointError
from lab.core.runs.atomic_files import refuse_special
from lab.core.runs.json_files import read_json_object
from lab.core.runs.sums import file_digest, known_digest
from lab.core.streams import say

META = "meta.json"
HINT = "remove the folder to go on from an earlier one, or start a new run"


def write_meta(folder: Path, facts: Mapping[str, object]) -> None:
    """Write meta.json with `facts` and the digests of all other files, which are complete.

    Raises:
        OSError: if it cannot be written.
    """
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    content = {**facts, "files": files}
    (folder / META).write_text(json.dumps({**content, "digest": _digest_of(content)}, indent=2) + "\n")


def read_meta(path: Path) -> dict[str, Any]:
    """What meta.json of a checkpoint says.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    meta = read_json_object(path / META, hint=HINT, error=CheckpointError)
    digest = meta.pop("digest", None)
    if digest != _digest_of(meta) or not isinstance(meta.get("step"), int) or not isinstance(meta.get("files"), dict):
        raise CheckpointError(f"{path}/{META} is damaged: it is not what was written; {HINT}")
    return meta


def check_whole(path: Path) -> None:
    """Refuse a checkpoint with a file that is not as it was written.

    Raises:
        CheckpointError: naming the file.
    """
    files = read_meta(path)["files"]
    for name, digest in files.items():
        file = path / name
        refuse_special(file, CheckpointError)
        try:
            is_whole = digest == known_digest(file)
        except OSError as error:
            raise CheckpointError(f"{file} is missing or cannot be read ({error.strerror}); {HINT}") from error
        if not is_whole:
            raise CheckpointError(f"{file} is damaged: it is not what was written; {HINT}")


def newest_whole(paths: list[Path]) -> Path | None:
    """The last of some checkpoints that is whole; the loss of a later one is said. None if there are none.

    Raises:
        CheckpointError: if there are some but none is whole, naming what is wrong with the last.
    """
    damages: list[CheckpointError] = []
    for path in reversed(paths):
        try:
            check_whole(path)
        except CheckpointError as error:
            damages.append(error)
            continue
        for damage in damages:
            say(f"going on from {path}: {damage}")
        return path
    if damages:
        raise damages[0]
    return None


def _digest_of(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
