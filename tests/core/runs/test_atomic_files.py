"""A reader finds the old file or the new one, never a part of either, and a full disk is one line."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.core.errors import InputError, RunError
from lab.core.runs import atomic_files
from lab.core.runs.atomic_files import (
    folder_atomically,
    make_folder,
    path_atomically,
    refuse_no_file,
    refuse_special,
    refuse_unwritable,
    remove_partial_files,
    remove_partial_folders,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_was_deleted_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a/file cannot be written: its folder is not there"):
        write_atomically(tmp_path / "a" / "file", "ä")
    with pytest.raises(RunError, match=r"a/b cannot be written: its folder is not there"):
        folder_of(tmp_path / "a" / "b", "new")
    with pytest.raises(RunError, match=r"a/b cannot be written: its folder is not there"):
        make_folder(tmp_path / "a" / "b")
    assert names(tmp_path) == []


def test_a_result_is_as_readable_as_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    def crash(source: str, target: Path) -> None:
        assert Path(source).read_text() == "new", "the new content is complete before it gets the name"
        raise Crash

    write_atomically(tmp_path / "file", "old")
    monkeypatch.setattr(atomic_files.os, "replace", crash)
    with pytest.raises(Crash):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / "file", "old")
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(RunError, match=r"file cannot be written: the disk is full; free some space"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_limit_on_file_size_leaves_the_old_file(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from lab.core.errors import RunError
from lab.core.runs.atomic_files import write_atomically
path = Path(sys.argv[1])
write_atomically(path, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(path, b"x" * 5000)
except RunError as error:
    print(error)
"""
    words = [sys.executable, "-c", program, str(tmp_path / "file")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "file cannot be written: the file is larger than allowed" in done.stdout
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("")
    with pytest.raises(RunError, match=r"outputs/run/file cannot be written: .* LAB_OUTPUTS"):
        write_atomically(tmp_path / "outputs" / "run" / "file", "new")
    with pytest.raises(RunError, match=r"outputs/file cannot be written: .* LAB_OUTPUTS"):
        write_atomically(tmp_path / "outputs" / "file", "new")


def test_an_error_without_a_hint_is_told_in_the_words_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic_files.os, "fsync", broken)
    with pytest.raises(RunError, match="file cannot be written: Input/output error; choose another place"):
        write_atomically(tmp_path / "file", "new")


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path, kind in ((pipe, "a pipe"), (link, "a pipe"), (tmp_path, "a folder"), (Path("/dev/null"), "a device")):
        with pytest.raises(InputError, match=f"{path} cannot be read: it is {kind}; give a file"):
            refuse_special(path, InputError)
        with pytest.raises(RunError, match=f"{path} cannot be written: it is {kind}; give the name of a file"):
            refuse_no_file(path)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "absent"):
        refuse_special(path, InputError)
        refuse_no_file(path)
    refuse_no_file(tmp_path / "new" / "folder" / "file")


@pytest.mark.parametrize("path", ["/", "/proc/x/y", "n" * 300, ".", "file/below"])
def test_a_place_where_no_file_can_be_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        refuse_no_file(Path(path))
    assert names(tmp_path) == ["file"]


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    program = """
import os, sys
from pathlib import Path
from lab.core.runs.atomic_files import file_atomically
with file_atomically(Path(sys.argv[1])) as file:
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "figures" / "loss.png")], check=False)
    assert len(names(tmp_path / "figures")) == 1
    (tmp_path / "figures" / "kept").write_text("")
    remove_partial_files(tmp_path)
    assert names(tmp_path / "figures") == ["kept"]


def folder_of(path: Path, content: str) -> None:
    with folder_atomically(path) as partial:
        (partial / "a").write_text(content)


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for content in ("old", "new"):
        folder_of(tmp_path / "x", content)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "a").read_text() == "new"


@pytest.mark.parametrize("num_renames", [0, 1, 2])
def test_a_kill_while_a_folder_is_replaced_loses_neither_all(num_renames: int, tmp_path: Path) -> None:
    folder_of(tmp_path / "x", "old")
    script = f"""
import os
from pathlib import Path
from lab.core.runs.atomic_files import folder_atomically
replace, left = os.replace, [{num_renames}]
def dying(*names):
    if not left[0]:
        os._exit(1)
    left[0] -= 1
    replace(*names)
os.replace = dying
with folder_atomically(Path({str(tmp_path / "x")!r})) as partial:
    (partial / "a").write_text("new")
    (partial / "b").write_text("new")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    remove_partial_folders(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "a").read_text() == ("new" if num_renames == 2 else "old")


def test_what_a_kill_left_is_removed_by_the_next_write_and_what_goes_on_is_not(tmp_path: Path) -> None:
    with folder_atomically(tmp_path / "student") as first:
        with folder_atomically(tmp_path / "student") as second:
            assert first.exists()
            assert second != first
        # as a kill leaves it
        abandoned = second.with_name(f"{first.name.rpartition('.')[0]}.killed")
        abandoned.mkdir()
        with folder_atomically(tmp_path / "student"):
            assert first.exists()
        assert not abandoned.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_large_file_that_a_kill_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "student.gguf"
    program = f"""
import os
from pathlib import Path
from lab.core.runs.atomic_files import path_atomically
with path_atomically(Path({str(path)!r})) as partial:
    partial.write_text("half")
    os._exit(1)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], check=False)
        assert [left.read_text() for left in tmp_path.iterdir()] == ["half"]
    # one that goes on is not touched, nor one to another place
    with path_atomically(path) as first, path_atomically(tmp_path / "other.gguf") as other:
        refuse_unwritable(path)
        assert {first, other} == set(tmp_path.iterdir())
        first.write_text("whole")
        other.write_text("other")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "student.gguf": "whole",
        "other.gguf": "other",
    }


def test_an_attempt_to_write_removes_what_kills_left(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from lab.core.runs import atomic_files
atomic_files.os.rmdir = lambda path: os._exit(1)
atomic_files.refuse_unwritable(Path({str(tmp_path / "student")!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(names(tmp_path)) == 1
    refuse_unwritable(tmp_path / "student")
    assert names(tmp_path) == []
