"""Runs are recorded, shown and continued in a directory of any name that the file system takes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lab.cli.resume import quoted

# longer than a quick test may take
pytestmark = pytest.mark.slow

NAMES = ["ünï-日本 =,{b}'\"#[x]~(y)\\", "$HOME"]


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_a_name_is_taken_literally(name: str) -> None:
    value = OverridesParser.create().parse_override(f"key={quoted(Path('/place', name))}").value()
    assert value == str(Path("/place", name))


@pytest.mark.parametrize("name", ["LAB_OUTPUTS", "LAB_RUN_DIR"])
def test_an_interpolation_in_a_name_is_refused(
    name: str, typed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{tmp_path}/${{oc.env:HOME}}"
    monkeypatch.setenv(name, place)
    done = typed("hmm-risk", "sweep", "num_train=20")
    assert done.code == 2
    assert done.err == f"lab: {name}={place}: a folder with ${{ in its name cannot hold runs; rename it\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["LAB_OUTPUTS", "LAB_RUN_DIR", "hydra.run.dir"])
def test_a_folder_whose_name_is_no_text_is_refused(
    name: str, typed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    if name.startswith("LAB"):
        monkeypatch.setenv(name, place)
    done = typed("hmm-risk", "sweep", "num_train=20", *([] if name.startswith("LAB") else [f"{name}='{place}'"]))
    assert done.code == 2
    said = f"lab: {name}={tmp_path}/\\udcff: a folder whose name is not UTF-8 cannot hold runs; rename it\n"
    assert done.err == said
    assert list(tmp_path.iterdir()) == []


def test_an_interval_that_is_no_number_is_refused_before_anything_is_written(
    typed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("LAB_PROGRESS_EVERY", "nan")
    done = typed("hmm-risk", "sweep", "num_train=20")
    assert done.code == 2
    assert done.err.startswith("lab: LAB_PROGRESS_EVERY=nan must be a number of seconds")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_where_it_is(
    name: str,
    typed: Callable[..., Any],
    finished_run: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = tmp_path / name
    shutil.copytree(finished_run[0], outputs)
    monkeypatch.setenv("LAB_OUTPUTS", str(outputs))
    (folder,) = outputs.glob("hmm_risk/runs/*")
    table = (folder / "table.parquet").read_bytes()
    (folder / "table.parquet").unlink()
    done = typed("hmm-risk", "sweep", f"resume={folder.name}")
    assert done.code == 0, done.err
    assert (folder / "table.parquet").read_bytes() == table
    assert sorted(tmp_path.iterdir()) == [outputs]
