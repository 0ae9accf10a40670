"""Provenance says what ran, and never stops a run."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy
import pytest

from lab.core.runs import provenance, source_state
from lab.core.runs.provenance import blas, collect, installed_version, instructions, processor_name

COMMON: dict[str, Any] = {"seeds": {}, "backends": {}, "computed_by": ["numpy"], "settings": {}}


def test_provenance_names_versions_threads_and_seeds() -> None:
    record, _ = collect(**{**COMMON, "seeds": {"seed": 3}, "backends": {"linear_algebra": "numpy"}})
    assert record["versions"]["numpy"] == numpy.__version__
    assert record["versions"]["ssm-lab"]
    assert record["seeds"] == {"seed": 3}
    assert record["backends"] == {"linear_algebra": "numpy"}
    assert record["threads"]["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]
    assert "products" not in record
    assert json.loads(json.dumps(record)) == record
    record, _ = collect(**COMMON, products={"float32": "torch everywhere"})
    assert record["products"] == {"float32": "torch everywhere"}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit that holds core/module.py, in place of ours."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "module.py").write_text("old = 1\n")
    identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "core" / "runs" / "provenance.py"))
    return tmp_path


def test_a_clean_checkout_has_a_commit_and_no_patch(repository: Path) -> None:
    record, patch = collect(**COMMON)
    assert len(record["commit"]) == 40
    assert (record["is_dirty"], patch) == (False, b"")


def test_the_patch_holds_changes_and_new_files(repository: Path) -> None:
    (repository / "core" / "module.py").write_text("new = 2\n")
    (repository / "core" / "added.py").write_text("added = 3\n")
    record, patch = collect(**COMMON)
    assert record["is_dirty"]
    assert b"+new = 2" in patch
    assert b"+added = 3" in patch
    # collecting changes nothing: the new file is as untracked as it was
    status = subprocess.run(
        ["git", "-C", str(repository), "status", "--porcelain"], capture_output=True, text=True, check=True
    )
    assert "?? core/added.py" in status.stdout


def test_the_patch_gives_back_files_of_other_encodings_and_ends_of_lines(repository: Path, tmp_path: Path) -> None:
    latin = {"module.py": "# für\r\nnew = 2\n".encode("latin-1"), os.fsdecode(b"\xfc.py"): b"# \xe9\r\n"}
    for name, content in latin.items():
        (repository / "core" / name).write_bytes(content)
    _, patch = collect(**COMMON)
    git = ["git", "-C", str(repository)]
    subprocess.run([*git, "stash", "-q", "-u"], check=True)
    subprocess.run([*git, "apply", "--whitespace=nowarn"], input=patch, check=True)
    assert {name: (repository / "core" / name).read_bytes() for name in latin} == latin


def test_an_installed_copy_without_a_repository_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "core" / "runs" / "provenance.py"))
    record, patch = collect(**COMMON)
    assert (record["commit"], record["is_dirty"], patch) == (None, False, b"")


# settings of a user, and of who calls lab, each of which changes what `git diff` prints
_SETTINGS = {
    "diff.external": "true",
    "color.ui": "always",
    "diff.noprefix": "true",
    "diff.mnemonicPrefix": "true",
    "diff.context": "0",
    "diff.orderFile": "missing",
    "status.showUntrackedFiles": "no",
    "core.quotePath": "true",
}
_VARIABLES = {
    "GIT_EXTERNAL_DIFF": "true",
    "GIT_DIFF_OPTS": "--unified=0",
    "GIT_DIR": "/nowhere",
    "GIT_INDEX_FILE": "/nowhere/index",
    # a checkout of another user
    "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1",
}


@pytest.mark.parametrize("name", [*_SETTINGS, *_VARIABLES])
def test_the_patch_applies_whatever_settings_git_has(
    repository: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = {"module.py": "".join(f"line = {number}\n" for number in range(20)), "für.py": "added = 3\n"}
    for file, text in whole.items():
        (repository / "core" / file).write_text(text)
    with monkeypatch.context() as setting:
        if name in _SETTINGS:
            setting.setenv("GIT_CONFIG_COUNT", "1")
            setting.setenv("GIT_CONFIG_KEY_0", name)
            setting.setenv("GIT_CONFIG_VALUE_0", _SETTINGS[name])
        else:
            setting.setenv(name, _VARIABLES[name])
        record, patch = collect(**COMMON)
    assert (record["is_dirty"], len(record["commit"])) == (True, 40)
    git = ["git", "-C", str(repository)]
    subprocess.run([*git, "stash", "-q", "-u"], check=True)
    subprocess.run([*git, "apply"], input=patch, check=True)
    assert {file: (repository / "core" / file).read_text() for file in whole} == whole


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, "git cannot be started"),
        ("exec sleep 9", "git rev-parse took longer than 0.1 s"),
        ("echo fatal: of an odd format >&2; exit 128", "fatal: of an odd format"),
    ],
)
def test_what_git_does_not_say_is_not_known(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str | None,
    reason: str,
) -> None:
    if program is None:
        monkeypatch.setenv("PATH", "")
    else:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(source_state, "_LONGEST_S", 0.1)
    record, patch = collect(**COMMON)
    assert (record["commit"], record["is_dirty"], patch) == (None, None, b"")
    said = capsys.readouterr().err
    assert said.startswith("lab: the commit is not recorded: ")
    assert reason in said


def test_what_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-distribution-of-ours") is None


def test_the_processor_has_a_name_and_instructions() -> None:
    assert processor_name()
    assert len(instructions().split()) > 1


def test_this_checkout_has_a_commit() -> None:
    record, _ = collect(**COMMON)
    assert record["commit"] or not (Path(provenance.__file__).parents[2] / ".git").exists()


def test_threads_of_linear_algebra_and_forced_instructions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert blas().endswith("threads: 3")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert collect(**COMMON)[0]["settings"] == {"OPENBLAS_CORETYPE": "Haswell"}
