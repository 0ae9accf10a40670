"""Sweeps that are typed again, and sweeps that are only printed."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_module

from lab.cli.sweeps.composing import sweep_axes
from lab.experiments.hmm_risk import job

Typed = Callable[..., Any]
SWEEP = ("hmm-risk", "sweep", "-m")


@pytest.fixture
def sweep(typed: Typed, outputs: Path, tiny: tuple[str, ...]) -> Path:
    """A finished sweep of two points."""
    folder = outputs / "hmm_risk" / "sweeps" / "two"
    done = typed(*SWEEP, *tiny, "seed=1,2", f"hydra.sweep.dir={folder}")
    assert done.code == 0, done.err
    return folder


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with what changes if it is written again."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.slow
def test_a_finished_point_is_neither_run_nor_loaded(
    sweep: Path, typed: Typed, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    check = job.check
    monkeypatch.setattr(job, "check", lambda config, folder: seeds.append(config.seed) or check(config, folder))
    before, table = files(sweep / "0"), (sweep / "1" / "table.parquet").read_bytes()
    # the table of the second one is damaged
    (sweep / "1" / "table.parquet").write_bytes(table[:-1])
    done = typed(*SWEEP, *tiny, "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert done.code == 0, done.err
    assert "lab: 1 of 2 points are finished and skipped: 0\n" in done.err
    assert seeds == [2]
    assert files(sweep / "0") == before
    assert (sweep / "1" / "table.parquet").read_bytes() == table
    done = typed("hmm-risk", "sweep", "resume=two")
    assert (done.code, "2 of 2 points are finished and skipped: 0-1" in done.err) == (0, True)
    assert seeds == [2]
    quiet = typed(*SWEEP, *tiny, "seed=1,2", f"hydra.sweep.dir={sweep}", "--quiet")
    assert (quiet.out.splitlines(), quiet.err) == ([str(sweep / "0"), str(sweep / "1")], "")


@pytest.mark.slow
def test_points_that_are_asked_for_more_are_run(sweep: Path, typed: Typed) -> None:
    done = typed("hmm-risk", "sweep", "resume=two", "replicates=3")
    assert done.code == 0, done.err
    assert "skipped: " not in done.err
    assert [json.loads((sweep / name / "config.json").read_text())["replicates"] for name in "01"] == [3, 3]
    done = typed("hmm-risk", "sweep", "resume=two", "replicates=3")
    assert "2 of 2 points are finished" in done.err


@pytest.mark.slow
def test_a_point_keeps_its_number_where_others_are_skipped(sweep: Path, typed: Typed, tiny: tuple[str, ...]) -> None:
    first = files(sweep / "0")
    done = typed(*SWEEP, *tiny, "seed=1,2,3", f"hydra.sweep.dir={sweep}")
    assert done.code == 0, done.err
    assert json.loads((sweep / "2" / "config.json").read_text())["seed"] == 3
    assert files(sweep / "0") == first
    # a folder with another seed is not taken for finished, and not overwritten
    done = typed(*SWEEP, *tiny, "seed=1,3,2", f"hydra.sweep.dir={sweep}")
    assert (done.code, f"{sweep / '1'} holds a run with seed=2, not 3" in done.err) == (2, True)


@pytest.mark.slow
def test_a_dry_run_prints_the_points_and_writes_nothing(
    sweep: Path, typed: Typed, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(sweep.parent)
    words = (*SWEEP, *tiny, "num_train=20,30", "seed=1,2", "--dry-run")
    done = typed(*words, "hydra.sweep.dir=" + str(sweep))
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if str(sweep) in line]
    assert [row[:3] for row in rows] == [
        [str(k), f"num_train={20 + 10 * (k // 2)}", f"seed={1 + k % 2}"] for k in range(4)
    ]
    assert [row[3] for row in rows] == [str(sweep / str(k)) for k in range(4)]
    assert [row[4] for row in rows] == ["finished", "finished", "new", "new"]
    assert "6 risks" in done.out.partition(str(sweep / "2"))[2]
    assert done.out.endswith("4 points, of which 2 are finished; nothing was started\n")
    assert files(sweep.parent) == before


def test_a_dry_run_of_a_run_is_one_line_and_refuses_what_a_start_would(
    typed: Typed, tiny: tuple[str, ...], outputs: Path
) -> None:
    done = typed("hmm-risk", "sweep", *tiny, "--dry-run")
    assert (done.code, done.out.count("hmm_risk/runs/")) == (0, 1), done.err
    for words in (("num_train=0",), ("-m", "num_train=20,0")):
        done = typed("hmm-risk", "sweep", *tiny, "--dry-run", *words)
        assert (done.code, done.out, "num_train=0" in done.err) == (2, "", True)
    for words in (("hydra.run.dir=/dev/null/x",), ("-m", "hydra.sweep.dir=/dev/null/x")):
        done = typed("hmm-risk", "sweep", *tiny, "--dry-run", *words)
        assert (done.code, done.out, "cannot be written: /dev/null" in done.err) == (2, "", True)
    done = typed("hmm-risk", "sweep", "--dry-run", "--cfg", "job")
    assert (done.code, "--dry-run with --cfg" in done.err) == (2, True)
    assert not outputs.exists()


def test_links_that_a_tracker_keeps_in_a_run_do_not_hold_it_up(typed: Typed, recorded: Path) -> None:
    # as W&B makes them
    (recorded / "wandb" / "run-1").mkdir(parents=True)
    (recorded / "wandb" / "run-1" / "debug.log").touch()
    (recorded / "wandb" / "debug.log").symlink_to("run-1/debug.log")
    done = typed("hmm-risk", "sweep", f"resume={recorded}", "--dry-run")
    assert (done.code, "one run" in done.out) == (0, True), done.err


def test_values_are_in_the_order_of_hydras_sweeper_and_of_a_search_the_ends_are_listed() -> None:
    with initialize_config_module("lab.conf", version_base="1.3"):
        params = ["num_train=20,30", "seed=1,2"]
        axes = sweep_axes([*params, "replicates=3", "seed=5,6"])
        assert axes == (["replicates=3"], [["num_train=20", "num_train=30"], ["seed=5", "seed=6"]])
        axes = sweep_axes(["hmm=symmetric,general", "seed=range(1,9)", "snr=interval(0.5,2)"], is_search=True)
        assert axes.swept == [["hmm=symmetric", "hmm=general"], ["seed=1", "seed=9"], ["snr=0.5", "snr=2.0"]]


@pytest.mark.slow
def test_points_may_have_other_folders(typed: Typed, tiny: tuple[str, ...], outputs: Path) -> None:
    named = ("hydra.sweep.subdir='seed/${seed}-${hydra:job.num}'", f"hydra.sweep.dir={outputs}/sweep")
    assert typed(*SWEEP, *tiny, "seed=1,2", *named).code == 0
    done = typed(*SWEEP, *tiny, "seed=1,2", *named)
    assert "2 of 2 points are finished" in done.err
    assert sorted(path.name for path in (outputs / "sweep" / "seed").iterdir()) == ["1-0", "2-1"]


@pytest.mark.slow
def test_a_sweep_with_a_point_that_is_running_is_refused(sweep: Path, typed: Typed, tiny: tuple[str, ...]) -> None:
    status = json.loads((sweep / "1" / "status.json").read_text())
    (sweep / "1" / "SHA256SUMS").unlink()
    (sweep / "1" / "status.json").write_text(json.dumps(status | {"status": "running"}))
    with (sweep / "1" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = typed(*SWEEP, *tiny, "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert (done.code, f"{sweep / '1'} is running" in done.err) == (2, True)


@pytest.mark.slow
def test_finished_points_of_the_other_studies_are_skipped(typed: Typed, outputs: Path, teacher: Path) -> None:
    few = [f"stage_1.{key}" for key in ("steps=2", "batch_size=2")]
    few += [f"evaluation.{key}" for key in ("num_batches=1", "batch_size=4", "num_validation_batches=1")]
    distill = ("distill", "stage=1", f"teacher.path={teacher}", "teacher.hovle=null", "threads=1", "figures=[]", *few)
    evaluate = ("eval", str(teacher), "picture_questions:6", "threads=1", "resamples=20", "max_new_tokens=4")
    probe = ("probe", f"model={teacher}", "data=picture_questions", "num_train=20", "draws=2", "threads=1", "folds=0")
    for number, words in enumerate((distill, evaluate, probe)):
        place = f"hydra.sweep.dir={outputs}/{number}"
        done = typed(*words, "-m", "seed=1,2", place)
        assert done.code == 0, done.err
        before = files(outputs / str(number))
        done = typed(*words, "-m", "seed=1,2", place)
        assert "2 of 2 points are finished and skipped: 0-1" in done.err, done.err
        after = files(outputs / str(number))
        assert {name for name in before if before[name] != after[name]} == {"multirun.yaml"}
