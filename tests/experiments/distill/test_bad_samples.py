"""Bad samples are left out, counted and listed as they were planted, also by a run that was cut off; or refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import InputError
from lab.core.runs.record import Run
from reference.bad_corpus import write_corpus
from reference.parquet import read_table

Runner = Any


def words(runner: Runner, path: Path, *, steps: int, batch_size: int) -> list[str]:
    """A stage of a run on a file of conversations."""
    runner.arguments[:] = [word for word in runner.arguments if "picture_questions" not in word]
    return [
        "stage=1",
        "data=conversations",
        f"data.conversations.path={path}",
        f"data.conversations.image_folder={path.parent}",
        "data.conversations.held_out_share=0.1",
        f"stage_1.steps={steps}",
        f"stage_1.batch_size={batch_size}",
        "stage_1.log_every=3",
        "stage_1.evaluate_every=1000",
        "stage_1.checkpoint_every=4",
        f"evaluation.num_batches={steps // 4}",
    ]


def check_counts(folder: Path, path: Path, planted: dict[int, str]) -> None:
    """Table, summary and list say what was planted; whole epochs of both splits were read."""
    table = read_table(folder / "table.parquet")
    counts: Counter[str] = Counter()
    for row in table:
        if row["kind"] == "left_out":
            counts[row["reason"]] += row["samples"]
    assert counts == Counter(planted.values())
    listed = [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]
    assert {row["line"]: row["reason"] for row in listed} == planted
    assert len(listed) == len(planted)
    assert {row["file"] for row in listed} == {str(path)}
    summary = json.loads((folder / "summary.json").read_text())
    assert sum(row[-1] for row in summary["rows"] if row[0] == "left out") == len(planted)
    assert {len(row) for row in summary["rows"]} == {len(summary["columns"])}
    assert any("of the training data left out" in sentence for sentence in summary["verdict"])


class Cut(BaseException):
    """The end of a process, as far as what it leaves behind is concerned."""


def cut_after(runner: Runner, monkeypatch: pytest.MonkeyPatch, count: int, words: list[str]) -> None:
    """A run that ends before it records rows for the time `count`."""
    log, left = Run.log, count

    def cutting(self: Any, rows: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Cut
        log(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", cutting)
        with pytest.raises(Cut):
            runner.run("cut", *words)


def check_same(ours: Path, theirs: Path) -> None:
    for name in ("table.parquet", "bad_samples.jsonl"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    rows = [
        [
            {name: value for name, value in json.loads(line).items() if name not in ("seconds", "crc32")}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (ours, theirs)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_what_was_planted_is_counted(runner: Runner, tmp_path: Path) -> None:
    path, planted = write_corpus(tmp_path / "data", num_samples=72, num_of_each=1)
    given = words(runner, path, steps=10, batch_size=8)
    folder = runner.run("whole", *given)
    check_counts(folder, path, planted)
    (last,) = [row for row in read_table(folder / "table.parquet") if row["kind"] == "train" and row["step"] == 10]
    assert last["left_out"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["inline", "process"])
def test_one_in_a_hundred_is_bad_and_the_run_goes_through_kills(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    path, planted = write_corpus(tmp_path / "data", num_samples=1600, num_of_each=2)
    given = [*words(runner, path, steps=60, batch_size=32), f"loader={loader}"]
    folder = runner.run("whole", *given)
    check_counts(folder, path, planted)
    for count in (3, 9, 11, 4):
        cut_after(runner, monkeypatch, count, given)
    check_same(runner.run("cut", *given), folder)


def test_a_bad_sample_is_refused_where_that_is_asked_for(runner: Runner, tmp_path: Path) -> None:
    path, planted = write_corpus(tmp_path / "data", num_samples=40, num_of_each=1)
    given = words(runner, path, steps=10, batch_size=8)
    with pytest.raises(InputError, match=rf"line ({'|'.join(map(str, planted))}): .*data\.on_bad_sample=skip"):
        runner.run("refused", *given, "data.on_bad_sample=refuse")
    assert not runner.folder("refused").exists()


def test_a_file_of_which_nearly_nothing_can_be_read_is_refused(runner: Runner, tmp_path: Path) -> None:
    path, _ = write_corpus(tmp_path / "data", num_samples=40, num_of_each=5)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*("{" for _ in lines), lines[0]]) + "\n")
    given = words(runner, path, steps=10, batch_size=8)
    with pytest.raises(InputError, match=r"samples looked at cannot be used; the first: .*is not valid JSON"):
        runner.run("refused", *given)
    assert not runner.folder("refused").exists()
