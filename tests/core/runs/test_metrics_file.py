"""What others do to the files of a run, while it goes on and between its attempts."""

from pathlib import Path

import pytest

from lab.core.errors import RunError
from lab.core.runs.record import Run

ROWS = [{"n": 1}, {"n": 2}]


def opened(folder: Path) -> Run[dict[str, int]]:
    return Run(folder, {"seed": 0}, [], {}, b"")


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    def leave(*names: str) -> None:
        for name in names:
            (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "run" / name).write_text("half")

    # before the run had begun, when the folder may hold runs of others
    leave(".partial-1", "other/.partial-2")
    with opened(tmp_path / "run") as run:
        run.log(ROWS)
    assert [path.name for path in (tmp_path / "run").rglob(".partial-*")] == [".partial-2"]
    leave("figures/.partial-3")
    with opened(tmp_path / "run"):
        assert list((tmp_path / "run").rglob(".partial-*")) == []


@pytest.mark.parametrize("added", [b"{}", None], ids=["more", "less"])
def test_metrics_that_another_program_changes_end_the_run(tmp_path: Path, added: bytes | None) -> None:
    path = tmp_path / "metrics.jsonl"

    def change_and_go_on() -> None:
        with opened(tmp_path) as run:
            run.log(ROWS)
            path.write_bytes(path.read_bytes()[:5] if added is None else path.read_bytes() + added)
            run.log(ROWS)

    with pytest.raises(RunError, match="changed by another program while the run went on"):
        change_and_go_on()
    with opened(tmp_path) as run:
        assert list(run.rows) == ([] if added is None else ROWS)


def test_a_configuration_that_is_deleted_while_the_run_goes_on_is_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path) as run:
        run.log(ROWS)
        before = (tmp_path / "config.json").read_bytes()
        (tmp_path / "config.json").unlink()
    assert (tmp_path / "config.json").read_bytes() == before
    assert "config.json was deleted while the run went on; it is written again" in capsys.readouterr().err
