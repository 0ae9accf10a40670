"""A record that was damaged, or a folder that was deleted, is never silent: computed again, or refused in one line."""

import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.share import every

from drawn import SEED
from lab.core.errors import LabError, RunError
from lab.core.runs.record import Run
from lab.core.runs.sums import SUMS
from lab.experiments.distill.recorded_units import Counter, keep_what_counts
from lab.experiments.distill.rows import Row

SWEEP = ("num_train=20", "widths=[6,10,40]", "replicates=4", "observation_noise=0.5", "figures=[]", "workers=1")
LONG = ("num_train=120", "widths=[20,60,120,200,300]", "replicates=60", "figures=[]")

Damage = Callable[[Path], None]
Lab = Callable[..., Any]


def rows_of(count: int) -> list[Row]:
    unit = {"unit": "u", "stage": 1, "replicate": 0}
    return [{**unit, "kind": "train", "step": step, "loss": 1 / step} for step in range(1, count + 1)]  # type: ignore


def run_with_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distillation of eight steps with a checkpoint after six; what the checkpoint holds is read from here."""
    counter = Counter()
    with Run[Row](folder, {}, [], {}, b"") as run:
        run.log(rows_of(8))
    for row in rows_of(6):
        counter.add(row)
    path = folder / "checkpoints" / "u" / "step_00000006"
    path.mkdir(parents=True)
    module = "lab.experiments.distill.recorded_units"
    monkeypatch.setattr(f"{module}.newest_whole", lambda paths: path)
    monkeypatch.setattr(f"{module}.read_meta", lambda path: {"step": 6, **counter.counted})


def by_lines(change: Callable[[list[bytes]], list[bytes]]) -> Damage:
    return lambda path: path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True)))) and None


def random_bytes(path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw, content = random.Random(seed), bytearray(path.read_bytes())
    # within what the checkpoint counts on
    start = draw.randrange(len(content) // 2)
    content[start : start + 30] = draw.randbytes(30)
    path.write_bytes(content)


def other_digit(digit: re.Match[bytes]) -> bytes:
    return b"%d" % ((int(digit[0]) + 1) % 10)


DAMAGES: dict[str, Damage] = {
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "deleted": Path.unlink,
    "last lines gone": by_lines(lambda lines: lines[:-4]),
    "middle lines gone": by_lines(lambda lines: lines[:2] + lines[4:]),
    "first line gone": by_lines(lambda lines: lines[1:]),
    "lines swapped": by_lines(lambda lines: [lines[1], lines[0], *lines[2:]]),
    "all lines doubled": by_lines(lambda lines: lines * 2),
    "a digit changed": by_lines(
        lambda lines: [*lines[:3], re.sub(rb"(?<=: )\d", other_digit, lines[3], count=1), *lines[4:]]
    ),
    "a key changed": by_lines(lambda lines: [*lines[:3], lines[3].replace(b'"kind"', b'"knid"'), *lines[4:]]),
    "random bytes": random_bytes,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_distillation_without_rows_that_a_checkpoint_counts_on_is_refused_with_the_cure(
    damage: Damage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_checkpoint(tmp_path, monkeypatch)
    damage(tmp_path / "metrics.jsonl")
    folders = {"u": tmp_path / "checkpoints" / "u"}
    with (
        Run[Row](tmp_path, {}, [], {}, b"") as run,
        pytest.raises(RunError, match=r"put the file back from a copy, or remove .*checkpoints/u to train that again"),
    ):
        keep_what_counts(run, folders)


def test_a_line_that_was_doubled_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with_checkpoint(tmp_path, monkeypatch)
    by_lines(lambda lines: lines[:6] + lines[5:])(tmp_path / "metrics.jsonl")
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        assert keep_what_counts(run, {"u": tmp_path / "checkpoints" / "u"}) == set()
        assert list(run.rows) == rows_of(6)


def test_a_finished_unit_that_has_lost_rows_is_not_finished(tmp_path: Path) -> None:
    ended: list[Row] = [*rows_of(3), {"unit": "u", "kind": "done", "num_rows": 3}]
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        run.log(ended)
        assert keep_what_counts(run, {"u": tmp_path}) == {"u"}
    by_lines(lambda lines: lines[:1] + lines[2:])(tmp_path / "metrics.jsonl")
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        assert keep_what_counts(run, {"u": tmp_path}) == set()
        assert list(run.rows) == []


GONE: dict[str, tuple[Damage, str]] = {
    "deleted": (Path.unlink, "8 of the 8 rows that it held are gone"),
    "emptied": (lambda path: os.truncate(path, 0), "8 of the 8 rows that it held are gone"),
    "last lines gone": (by_lines(lambda lines: lines[:-3]), "3 of the 8 rows that it held are gone"),
}


@pytest.mark.parametrize(("damage", "words"), GONE.values(), ids=GONE)
def test_rows_that_are_gone_from_the_end_of_a_run_are_missed(damage: Damage, words: str, tmp_path: Path) -> None:
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        run.log(rows_of(8))
    damage(tmp_path / "metrics.jsonl")
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        assert run.damage == f"{tmp_path / 'metrics.jsonl'}: {words}"
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        assert run.damage is None


def test_a_run_whose_lock_was_deleted_is_still_open(tmp_path: Path) -> None:
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        run.log(rows_of(3))
        (tmp_path / ".lock").unlink()
        with pytest.raises(RunError, match=r"metrics\.jsonl is open in another process"):
            Run[Row](tmp_path, {}, [], {}, b"")
        run.log(rows_of(3))
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        assert len(run.rows) == 6


def test_records_of_another_run_are_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, step in ((ours, 1), (theirs, 2)):
        with Run[Row](folder, {}, [], {}, b"") as run:
            run.log(rows_of(8)[step:])
            run.log(rows_of(step))
    shutil.copy(theirs / "metrics.jsonl", ours / "metrics.jsonl")
    with pytest.raises(RunError, match=r"holds other rows than this run has recorded; put its file back, or remove"):
        Run[Row](ours, {}, [], {}, b"")


def test_records_that_are_gone_after_a_kill_are_missed(tmp_path: Path) -> None:
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        run.log(rows_of(8))
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "status.json").write_text('{"status": "running"}')
    with Run[Row](tmp_path, {}, [], {}, b"") as run:
        assert run.damage == f"{tmp_path / 'metrics.jsonl'} is gone"


def in_the_middle(folder: Path, delete: Callable[[Path], None]) -> None:
    with Run(folder, {}, [], {}, b"") as run:
        run.log([{"cell": 0}])
        delete(folder)
        run.log([{"cell": 1}])


@pytest.mark.parametrize("delete", [shutil.rmtree, lambda folder: (folder / "metrics.jsonl").unlink()])
def test_what_is_deleted_in_the_middle_ends_the_run_and_is_not_made_anew(
    delete: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"metrics\.jsonl was deleted or replaced while the run went on"):
        in_the_middle(folder, delete)
    assert not (folder / "metrics.jsonl").exists()
    assert delete is not shutil.rmtree or not folder.exists()


def test_a_pipe_in_the_place_of_a_file_of_a_run_is_refused_at_once(tmp_path: Path) -> None:
    for name in (".lock", "config.json", "metrics.jsonl"):
        folder = tmp_path / name
        with Run(folder, {}, [], {}, b"") as run:
            run.log([{"cell": 0}])
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(LabError, match=rf"{name} cannot be read: it is a pipe"):
            Run(folder, {}, [], {}, b"")


@pytest.fixture(scope="module")
def swept(forked_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep, not to be changed."""
    folder = tmp_path_factory.mktemp("swept")
    done = forked_lab("hmm-risk", "sweep", *SWEEP, f"hydra.run.dir={folder / 'run'}", cwd=folder)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_sweep_computes_damaged_rows_again(damage: Damage, lab: Lab, swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("hmm-risk", "sweep", *SWEEP, f"hydra.run.dir={folder}")
    shutil.copytree(swept, folder)
    whole = (folder / "table.parquet").read_bytes()
    damage(folder / "metrics.jsonl")
    done = lab(*words)
    assert done.code == 0, done.err
    assert (folder / "table.parquet").read_bytes() == whole
    assert "what is missing is computed again" in done.err


@pytest.mark.slow
def test_a_wrong_bit_in_a_finished_run_is_never_another_number(lab: Lab, swept: Path, tmp_path: Path) -> None:
    draw, run = random.Random(SEED), tmp_path / "run"
    shutil.copytree(swept, run)
    shutil.copytree(swept, tmp_path / "2")
    readers = [*(("show", str(run), *more) for more in ((), ("--csv",), ("--json",))), ("compare", str(run), "2")]
    expected = {words: lab(*words).out for words in readers}
    listed = [line.partition("  ")[2] for line in (run / SUMS).read_text().splitlines()]
    assert {"table.parquet", "lines.parquet", "summary.json", "config.json", "status.json"} <= set(listed)
    found = 0
    for name in listed:
        whole = (run / name).read_bytes()
        # each reader of each file four times
        for words in every(4, 4 * readers, of=name):
            changed = bytearray(whole)
            changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            (run / name).write_bytes(changed)
            done = lab(*words)
            found += done.code == 2
            assert "Traceback" not in done.err
            # what a reader does not need may be anything
            is_same = done.out == expected[words]
            assert is_same if done.code == 0 else f"{run / name} is " in done.err, (name, words, done)
        (run / name).write_bytes(whole)
    assert found > len(listed) / 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_whose_folder_is_deleted_ends_with_one_line(
    workers: int, lab_command: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [*lab_command, "hmm-risk", "sweep", *LONG, f"workers={workers}", f"hydra.run.dir={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        metrics, patience = folder / "metrics.jsonl", time.monotonic() + 200
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 30:
            assert time.monotonic() < patience, "nothing was recorded"
            time.sleep(0.01)
        shutil.rmtree(folder)
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 2
    assert "Traceback" not in said
    assert said.rstrip().splitlines()[-1].startswith("lab: ")
    assert "was deleted" in said
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [("OPENBLAS_NUM_THREADS", "2"), ("OPENBLAS_CORETYPE", "Haswell")])
def test_a_sweep_is_resumed_with_the_same_linear_algebra_only(
    key: str, value: str, lab: Lab, swept: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = ("hmm-risk", "sweep", *SWEEP, f"hydra.run.dir={folder}")
    shutil.copytree(swept, folder)
    done = lab(*words, env={key: value})
    assert done.code == 2
    assert "would go on with other last digits" in done.err
    done = lab(*words, "resume_on=different", env={key: value})
    assert done.code == 0, done.err
    assert json.loads((folder / "provenance.json").read_text())["resume_on"] == "different"
