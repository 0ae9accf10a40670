"""Provenance says what ran, and never stops a run."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy
import pytest

from lab.core.runs import provenance
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


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    record, patch = collect(**COMMON)
    assert (record["commit"], patch) == (None, b"")


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
