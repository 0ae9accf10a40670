"""What this machine has left, and refusals of what needs more: before a run starts, not in the middle of it.

An estimate is of the largest arrays and within a factor of two. What a machine has is what the kernel calls available,
within the limits of the process and of its control groups; where nothing can be read, nothing is refused.
"""

import contextlib
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from lab.core.errors import ConfigError

_PROC = Path("/proc")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The cores on which this process may run; all of the machine, where the system binds no process to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_too_many_threads(threads: int | None) -> None:
    """Refuse more threads than cores: they would wait for each other, and on a login node for everybody.

    Raises:
        ConfigError: naming both numbers.
    """
    if threads is not None and threads > usable_cores():
        raise ConfigError(
            f"threads={threads} must be at most {usable_cores()}, the cores that this process may use; lower it"
        )


def refuse_too_large(num_bytes: float, what: str, hint: str, *, free: int | None = None) -> None:
    """Refuse what needs more memory than is free.

    Args:
        num_bytes: the estimate.
        what: the sizes that decide it.
        hint: what to lower.
        free: where this is not the memory of this machine.

    Raises:
        ConfigError: with the estimate and what is free.
    """
    free = available_memory() if free is None else free
    if free is not None and num_bytes > free:
        raise ConfigError(
            f"{what}: needs about {size_in_words(num_bytes)} of memory, {size_in_words(free)} are free; {hint}"
        )


def refuse_too_much_disk(num_bytes: float, folder: Path, what: str, hint: str) -> None:
    """Refuse a run that writes more than its disk has room for.

    Args:
        num_bytes: the estimate.
        folder: where it writes; it need not exist.
        what: the sizes that decide it.
        hint: what to lower.

    Raises:
        ConfigError: with the estimate and what is free.
    """
    free = free_disk(folder)
    if free is not None and num_bytes > free:
        raise ConfigError(
            f"{what}: needs about {size_in_words(num_bytes)} on the disk of {folder}, {size_in_words(free)} are free; "
            f"{hint}"
        )


def available_memory() -> int | None:
    """Bytes that this process can still allocate; None if that is not known here."""
    limits = (_of_machine(), _of_address_space(), *_of_control_groups())
    return min((limit for limit in limits if limit is not None), default=None)


def memory_of_processes(number: int) -> int | None:
    """Bytes that the processes of a run on this machine, this one among them, hold and can still allocate together.

    Unlike what is free, it is the same whether some of them have loaded more than the others by now. They have the same
    parent and the same command line.

    Args:
        number: how many they are; each may have a separate limit.
    """
    shared = min((limit for limit in (_of_machine(), *_of_control_groups()) if limit is not None), default=None)
    own = _of_address_space()
    limits = [
        None if shared is None else shared + sum(_held_by_siblings()),
        None if own is None else number * (own + (_entry(_PROC / "self/status", "RssAnon:", unit=1024) or 0)),
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def _held_by_siblings() -> Iterator[int]:
    """Memory that no file backs, of this process and those that were started like it."""
    ours = _command(_PROC / "self")
    for folder in _PROC.glob("[0-9]*"):
        if _entry(folder / "status", "PPid:", unit=1) == os.getppid() and _command(folder) == ours:
            yield _entry(folder / "status", "RssAnon:", unit=1024) or 0


def _command(folder: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return (folder / "cmdline").read_bytes()
    return None


def free_disk(folder: Path) -> int | None:
    """Bytes that can still be written below a folder, which need not exist; None if that is not known."""
    nearest = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    with contextlib.suppress(OSError):
        return None if nearest is None else shutil.disk_usage(nearest).free
    return None


def _of_machine() -> int | None:
    return _entry(_PROC / "meminfo", "MemAvailable:", unit=1024)


def _of_address_space() -> int | None:
    """Up to `ulimit -v`; what is mapped already counts."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _entry(_PROC / "self/status", "VmSize:", unit=1024)
    return None if limit == resource.RLIM_INFINITY or used is None else max(0, limit - used)


def _of_control_groups() -> Iterator[int | None]:
    """Up to the limit of each group that holds this process; cached files make room for others."""
    for line in _text(_PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, cached = _CONTROL_GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit = _CONTROL_GROUPS / "memory", "memory.limit_in_bytes"
            usage, cached = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inside = root / path.lstrip("/")
        for group in (inside, *inside.parents):
            if group.is_relative_to(root):
                yield _room(group, limit, usage, cached)


def _room(group: Path, limit: str, usage: str, cached: str) -> int | None:
    most, used = _text(group / limit).strip(), _text(group / usage).strip()
    if not most.isdecimal() or not used.isdecimal():
        return None
    return max(0, int(most) - int(used) + (_entry(group / "memory.stat", cached, unit=1) or 0))


def _entry(path: Path, name: str, *, unit: int) -> int | None:
    """The number behind a name in a file of /proc or /sys."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name:
            return int(words[1]) * unit
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def size_in_words(num_bytes: float) -> str:
    """Bytes with a unit, as users read them."""
    for unit, name in ((1e12, "TB"), (1e9, "GB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.3g} {name}"
    return f"{num_bytes / 1e6:,.0f} MB"
