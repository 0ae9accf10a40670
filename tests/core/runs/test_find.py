"""The order of the points of a sweep."""

from pathlib import Path

from lab.core.runs.find import in_order, points_of


def test_points_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    expected = [tmp_path / name for name in ("a/0", "a/2", "a/10", "a/best", "b/1", "b/11")]
    assert in_order(reversed(expected)) == expected
    for path in expected[:3]:
        path.mkdir(parents=True)
        (path / "status.json").write_text("{}")
    assert points_of(tmp_path / "a") == expected[:3]
