"""Names of recorded runs, and the order of the points of a sweep."""

from pathlib import Path

import pytest

from lab.core.errors import RunError
from lab.core.runs.find import find_run, in_order, is_listed, points_of, run_directories, run_name


def test_points_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    expected = [tmp_path / name for name in ("a/0", "a/2", "a/10", "a/best", "b/1", "b/11")]
    assert in_order(reversed(expected)) == expected
    for path in expected[:3]:
        path.mkdir(parents=True)
        (path / "status.json").write_text("{}")
    assert points_of(tmp_path / "a") == expected[:3]


def test_a_name_as_it_is_listed_is_found_by_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path))
    run, point = tmp_path / "distill" / "runs" / "20260101-1", tmp_path / "distill" / "sweeps" / "20260101-2" / "0"
    for path in (run, point):
        path.mkdir(parents=True)
    for name, path in (("distill/runs/20260101-1", run), ("runs/20260101-1", run), ("20260101-2/0", point)):
        assert is_listed(name)
        assert find_run(name) == path
    assert not is_listed("distill/runs/20260101-3")
    assert not is_listed("3/0")


@pytest.mark.parametrize(
    ("studies", "shown"),
    [
        ("ab", "2 runs under ROOT: a/runs/2026-1, b/runs/2026-1; give more"),
        ("dbca", "4 runs under ROOT: a/runs/2026-1, b/runs/2026-1, c/runs/2026-1 and 1 more; give more"),
    ],
)
def test_runs_that_end_alike_are_told_apart_by_their_folders(
    studies: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path))
    for study in studies:
        (tmp_path / study / "runs" / "2026-1").mkdir(parents=True)
    with pytest.raises(RunError) as caught:
        find_run("2026-1")
    assert str(caught.value) == f"2026-1 is the end of {shown.replace('ROOT', str(tmp_path))} of the name"
    assert find_run("a/runs/2026-1") == tmp_path / "a" / "runs" / "2026-1"


def test_the_short_name_of_a_run_finds_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    named = {
        "outputs/a/runs/2026-1": "2026-1",
        "outputs/a/sweeps/2026-2": "2026-2",
        "outputs/a/sweeps/2026-2/0": "2026-2/0",
        # ends alike
        "outputs/a/sweeps/x2026-2/0": "x2026-2/0",
        "outputs/a/sweeps/2026-2/seed/5": "a/sweeps/2026-2/seed/5",
        "outputs/mine/7": "mine/7",
        "elsewhere/runs/8": f"{tmp_path}/elsewhere/runs/8",
    }
    for place in named:
        (tmp_path / place).mkdir(parents=True)
    for place, name in named.items():
        assert run_name(tmp_path / place) == name
        assert find_run(name) == tmp_path / place


def test_a_few_digits_are_not_taken_for_the_end_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path))
    run = tmp_path / "a" / "runs" / "20260101-123450"
    for path in (run, tmp_path / "a" / "runs" / "7", tmp_path / "a" / "sweeps" / "20260101-1" / "0"):
        path.mkdir(parents=True)
    for name in ("0", "450", "1/0"):
        with pytest.raises(RunError, match=f"{name} is too short for the end of a name of digits"):
            find_run(name)
    assert find_run("123450") == find_run("-123450") == run
    assert find_run("7").name == "7"


def test_linked_studies_and_runs_are_listed_once_and_circles_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    places = ("elsewhere/study/runs/1", "elsewhere/2", "outputs/a/runs/3", "outside/4")
    for path in (tmp_path / place for place in places):
        path.mkdir(parents=True)
        (path / "status.json").touch()
    links = {
        "b": elsewhere / "study",
        "a/runs/2": elsewhere / "2",
        # already there, a circle, all there is, nothing, and what a run holds
        "a/runs/again": root / "a" / "runs" / "3",
        "a/circle": root / "a",
        "all": tmp_path,
        "nothing": tmp_path / "nothing",
        "a/runs/3/latest": tmp_path / "outside",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    assert {path.relative_to(root).as_posix() for path in run_directories(root)} == {"a/runs/2", "a/runs/3", "b/runs/1"}
    assert run_directories(tmp_path / "nothing") == []
