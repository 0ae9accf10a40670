"""Find recorded runs, and refuse those that another version of lab recorded."""

import difflib
import fcntl
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.core.errors import RunError
from lab.core.runs.json_files import json_object_or_none

# incremented whenever older runs can no longer be read or continued
SCHEMA_VERSION = 4

# the recorded state of a point of a sweep whose job has not begun
WAITING = "waiting"

# characters of a name that is too long for a file system
_SHOWN = 80

# of the runs that a name is the end of
_NAMED = 3


def outputs_root() -> Path:
    """Where runs are recorded: LAB_OUTPUTS, or outputs/ in the working directory."""
    return Path(os.environ.get("LAB_OUTPUTS", "outputs"))


def run_directories(root: Path) -> list[Path]:
    """Every recorded run under `root`, newest first; each point of a sweep is a run."""
    found = {path.parent for pattern in ("**/status.json", "**/overrides.json") for path in root.glob(pattern)}
    return sorted(
        found,
        key=lambda path: (path / "config.json").stat().st_mtime if (path / "config.json").exists() else 0,
        reverse=True,
    )


def find_run(name: str) -> Path:
    """The run that `name` means: a directory, a name as `lab runs` lists it, or the end of one.

    Raises:
        RunError: if there is none, or more than one.
    """
    if not name:
        raise RunError("the name of the run is empty; `lab runs` lists those there are")
    try:
        is_folder = Path(name).is_dir()
    except OSError as error:
        raise RunError(
            f"{name[:_SHOWN]}… cannot be the name of a run ({error.strerror}); `lab runs` lists them"
        ) from error
    if is_folder:
        return Path(name)
    root = outputs_root()
    if (root / name).is_dir():
        return root / name
    folders = _folders(root, name)
    matches = _ending(root, folders, name)
    whole = [path for path in matches if path.name == name]
    if len(matches) == 1 or len(whole) == 1:
        return (whole or matches)[0]
    if not matches:
        near = difflib.get_close_matches(name, [path.name for path in folders], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise RunError(f"there is no run {name} under {root}; {hint}`lab runs` lists them")
    names = [path.relative_to(root).as_posix() for path in in_order(matches)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise RunError(
        f"{name} is the end of {len(names)} runs under {root}: {', '.join(names[:_NAMED])}{more}; give more of the name"
    )


def is_listed(name: str) -> bool:
    """Whether a name is that of a run as `lab runs` lists it, or the end of one or several."""
    root = outputs_root()
    return (root / name).is_dir() or bool(_ending(root, _folders(root, name), name))


def _folders(root: Path, name: str) -> list[Path]:
    """The runs and sweeps that a name may be the end of."""
    patterns = ["*/runs/*", "*/sweeps/*", "reference/*/*"]
    # the end of a point's name alone is a number, which other names end with too
    patterns += ["*/sweeps/*/*"] if "/" in name else []
    return [path for pattern in patterns for path in root.glob(pattern)]


def _ending(root: Path, folders: Iterable[Path], name: str) -> list[Path]:
    return [path for path in folders if path.relative_to(root).as_posix().endswith(name)]


def points_of(directory: Path) -> list[Path]:
    """The run itself, or the runs of a sweep in the order of `in_order`.

    Raises:
        RunError: if it is neither.
    """
    if (directory / "status.json").exists():
        return [directory]
    found = [path for path in run_directories(directory) if path != directory]
    if not found:
        raise RunError(f"{directory} holds no run; `lab runs` lists them")
    return in_order(found)


def in_order(points: Iterable[Path]) -> list[Path]:
    """Points folder by folder: first those that are numbered, in the order of their numbers, then by name."""

    def key(path: Path) -> tuple[str, bool, int, str]:
        is_numbered = path.name.isdecimal()
        return path.parent.as_posix(), not is_numbered, int(path.name) if is_numbered else 0, path.name

    return sorted(points, key=key)


def run_state(directory: Path, status: Mapping[str, object]) -> str:
    """The recorded state of a run; one that is recorded as running but holds no lock was killed."""
    recorded = str(status.get("status", "unreadable"))
    if recorded != "running":
        return recorded
    return "running" if is_open(directory) else "killed"


def is_open(directory: Path) -> bool:
    """Whether a process works on a run now; where the file system has no locks, none can."""
    try:
        with open(directory / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # a lock that this user may not read is taken for held
        return True
    except OSError:
        return False
    return False


def refuse_other_version(folder: Path) -> None:
    """Refuse a run written in another run format; a run with missing or damaged status passes.

    Raises:
        RunError: naming both versions, and the commit that recorded the run where it is known.
    """
    status = json_object_or_none(folder / "status.json") or {}
    version = status.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        commit = (json_object_or_none(folder / "provenance.json") or {}).get("commit")
        recorded_by = f"lab at commit {commit}" if commit else "another version of lab"
        raise RunError(
            f"{folder} has run format {version}, recorded by {recorded_by}; this lab reads format {SCHEMA_VERSION}: "
            "start the run again, or use the lab that recorded it"
        )
