"""JSON files: strict when written, and one that cannot be used is refused in one line when read."""

import json
import math
from pathlib import Path
from typing import Any

from lab.core.errors import LabError, RunError
from lab.core.runs.atomic_files import refuse_special
from lab.core.runs.sums import check_file

# of a table in a summary: a number, a label, or nothing
Entry = str | int | float | None


def read_json(path: Path, *, hint: str, error: type[LabError] = RunError) -> object:
    """The content of a JSON file.

    Args:
        path: of the file.
        hint: what the user can do about a file that cannot be used; it ends the message.
        error: the kind of error.

    Raises:
        LabError: of the kind `error`, if the file is absent, a pipe or a device, cannot be read, is not JSON, or not as
            SHA256SUMS beside it says.
    """
    refuse_special(path, error)
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise error(f"{path} cannot be read ({fault.strerror}); {hint}") from fault
    except json.JSONDecodeError as fault:
        raise error(f"{path} is not valid JSON (line {fault.lineno}: {fault.msg}); {hint}") from fault
    # bytes that are not UTF-8, a number with too many digits, or lists in lists without end
    except (ValueError, RecursionError) as fault:
        raise error(f"{path} is not valid JSON ({str(fault).splitlines()[0]}); {hint}") from fault
    check_file(path, hint=hint, error=error)
    return content


def read_json_object(path: Path, *, hint: str, error: type[LabError] = RunError) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        hint: what the user can do about a file that cannot be used; it ends the message.
        error: the kind of error.

    Raises:
        LabError: of the kind `error`, if the file is absent, cannot be read, is not JSON, or holds something else.
    """
    content = read_json(path, hint=hint, error=error)
    if not isinstance(content, dict):
        raise error(f"{path} is not a JSON object; {hint}")
    return content


def json_object_if_there(path: Path, *, hint: str) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file.

    Raises:
        RunError: if it cannot be used, as `read_json_object`.
    """
    return read_json_object(path, hint=hint) if path.exists() else None


def json_object_or_none(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none that can be read: a damaged run must not hide the others."""
    try:
        return read_json_object(path, hint="")
    except RunError:
        return None


def write_json(path: Path, content: object) -> None:
    """Write a file of a folder that is being made.

    Raises:
        OSError: if that fails.
    """
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def finite(content: object) -> object:
    """A value for strict JSON, which has no word for NaN and infinity: they become null."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(item) for item in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
