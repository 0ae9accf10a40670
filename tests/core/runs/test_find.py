"""Names of recorded runs, and the order of the points of a sweep."""

from pathlib import Path

import pytest

from lab.core.errors import RunError
from lab.core.runs.find import find_run, in_order, is_listed, points_of


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
