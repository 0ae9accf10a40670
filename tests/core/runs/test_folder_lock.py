"""One process holds a run's folder; where a file system has no locks, that is said."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import RunError
from lab.core.runs import folder_lock
from lab.core.runs.find import is_open
from lab.core.runs.record import Run


def opened(folder: Path) -> Run[Any]:
    return Run(folder, {}, [], {}, b"")


def test_who_only_asks_whether_a_run_is_open_does_not_hold_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / ".lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        # it has its answer after a while
        monkeypatch.setattr(folder_lock.time, "sleep", lambda seconds: fcntl.flock(asking, fcntl.LOCK_UN))
        opened(tmp_path)._close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_as_the_fault(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError) as caught:
        opened(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} cannot be written: its file system has no locks ({os.strerror(number)}); "
        "mount it with -o flock, or set LAB_OUTPUTS to a folder elsewhere"
    )
    assert not is_open(tmp_path)
