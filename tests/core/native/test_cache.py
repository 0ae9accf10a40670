"""A compiled library is loaded only if this user wrote it and it is whole; else it is compiled again or refused."""

import os
from pathlib import Path

import pytest

from lab.core.native import build, cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache.library_folder()


def stored(folder: Path, content: bytes = b"a library") -> Path:
    with cache.new_library(folder, "loop-key") as path:
        path.write_bytes(content)
    found = cache.find_library(folder, "loop-key")
    assert found is not None
    return found


def test_a_library_is_found_under_its_name_only_and_for_this_user_only(folder: Path) -> None:
    path = stored(folder)
    assert path.read_bytes() == b"a library"
    assert path.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == [path]
    assert cache.find_library(folder, "loop-other") is None
    assert cache.find_library(folder, "loop") is None


def test_a_failure_while_compiling_leaves_nothing(folder: Path) -> None:
    def fail() -> None:
        with cache.new_library(folder, "loop-key") as path:
            path.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"a lib", b"a librarz", b"a library and more"])
def test_what_is_not_whole_is_deleted_and_said(
    folder: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(folder)
    path.write_bytes(content)
    assert cache.find_library(folder, "loop-key") is None
    assert str(path) in capsys.readouterr().err
    assert not path.exists()
    assert stored(folder) == path, "compiled again"


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_library_that_others_may_change_is_not_loaded(folder: Path, mode: int) -> None:
    stored(folder).chmod(mode)
    assert cache.find_library(folder, "loop-key") is None


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    path = stored(folder)
    elsewhere = path.rename(tmp_path / path.name)
    path.symlink_to(elsewhere)
    assert cache.find_library(folder, "loop-key") is None
    assert elsewhere.exists()


def test_another_users_library_is_not_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(folder)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.find_library(folder, "loop-key") is None


def test_a_folder_that_others_may_write_is_closed_to_them(folder: Path) -> None:
    for part in (folder.parent, folder):
        part.chmod(0o777)
    cache.library_folder()
    assert [part.stat().st_mode & 0o777 for part in (folder.parent, folder)] == [0o755, 0o755]


def test_another_users_folder_is_refused_with_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    reason = build.load_native.__wrapped__("step.cpp").why_not
    assert reason is not None
    assert str(folder.parent) in reason
    assert "cannot be trusted" in reason


def test_a_compiler_that_writes_rubbish_is_named_and_its_file_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "rubbish-c++"
    script.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo rubbish > "$2"; shift; done\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    built = build.load_native.__wrapped__("step.cpp")
    assert built.library is None
    assert "could not be built or loaded" in str(built.why_not)
    assert list(folder.iterdir()) == []
