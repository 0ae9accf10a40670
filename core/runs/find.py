"""Find recorded runs, and refuse those that another version of lab recorded."""

import difflib
import fcntl
import os
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
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

# one of them makes a folder that of a run
_OF_A_RUN = frozenset({"status.json", "overrides.json"})

# digits of which fewer are the end of any name by chance; the time at the end of a name has as many
_LEAST_DIGITS = 6


def outputs_root() -> Path:
    """Where runs are recorded: LAB_OUTPUTS, or outputs/ in the working directory."""
    return Path(os.environ.get("LAB_OUTPUTS", "outputs"))


def run_name(directory: Path) -> str:
    """A short name of a run that `find_run` accepts, for tables and behind resume=.

    Of a point of a sweep it begins with that of the sweep; of a run outside the output folder it is the whole path.
    """
    try:
        # not what links lead to: linked runs are listed where the links are
        parts = Path(os.path.abspath(directory)).relative_to(os.path.abspath(outputs_root())).parts
    except ValueError:
        return str(directory)
    if len(parts) == 4 and parts[1] == "sweeps":
        return "/".join(parts[-2:])
    is_found = len(parts) == 3 and (parts[1] in ("runs", "sweeps") or parts[0] == "reference")
    return parts[-1] if is_found else "/".join(parts) or str(directory)


def run_directories(root: Path) -> list[Path]:
    """Every recorded run under `root`, newest first; each point of a sweep is a run.

    Links to folders are followed, except within runs and to where the way has been already or where it comes from.
    """
    found: list[Path] = []
    seen: set[str] = set()
    own = os.path.realpath(root)
    # each with where it really is; real folders first: a run that is also linked is listed once, by its own name
    folders, links = deque([(str(root), own)]), deque[tuple[str, str]]()
    while folders or links:
        is_link = not folders
        folder, real = (folders or links).popleft()
        if real in seen or (is_link and f"{own}/".startswith(f"{real.rstrip('/')}/")):
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            # no folder, or one of others
            continue
        is_run = any(entry.name in _OF_A_RUN for entry in entries)
        if is_run:
            found.append(Path(folder))
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, os.path.join(real, entry.name)))
                elif not is_run and entry.is_symlink() and entry.is_dir():
                    links.append((entry.path, os.path.realpath(entry.path)))
    return sorted(
        found,
        key=lambda path: (path / "config.json").stat().st_mtime if (path / "config.json").exists() else 0,
        reverse=True,
    )


def find_run(name: str) -> Path:
    """The run that `name` means: a directory, a name as `lab runs` lists it, or the end of one.

    Raises:
        RunError: if there is none, or more than one, or the name is a few digits within another.
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
    whole = [path for path in matches if f"/{path.relative_to(root).as_posix()}".endswith(f"/{name}")]
    first = name.partition("/")[0]
    if matches and not whole and first.isdecimal() and len(first) < _LEAST_DIGITS:
        found = matches[0].relative_to(root).as_posix()
        raise RunError(
            f"{name} is too short for the end of a name of digits, such as that of {found}; give {_LEAST_DIGITS} of "
            "them or more, or the path"
        )
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
