"""A sweep gives the same numbers however it came to its end, and whatever else is in it."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.errors import ConfigError, RunError
from lab.experiments.hmm_risk import pool
from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    HmmRiskConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationConfig,
    RepresentationName,
    Transition,
)
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.grid.keys import shipped_keys
from lab.experiments.hmm_risk.job import table_rows
from lab.experiments.hmm_risk.pool import WorkerState, run_all
from lab.experiments.hmm_risk.results.figure_spec import FigureSpec
from lab.experiments.hmm_risk.results.report import summary_table
from lab.experiments.hmm_risk.results.summary import curves
from lab.experiments.hmm_risk.results.verdict import verdict
from lab.experiments.hmm_risk.units import Piece, Unit, count_pieces, recorded_pieces, units
from reference.parquet import read_table

Row = dict[str, Any]
Lab = Callable[..., Any]

# what is computed from the draws; theory of the whole grid stands beside it
MEASURED = ("bias", "variance", "excess_risk")
SMALL = ("num_train=20", "widths=[6,10,40]", "replicates=3", "figures=[excess_risk]")
# about 4 s of work, recorded in pieces: long enough to be killed in the middle
LONG = ("num_train=120", "widths=[20,60,120,200,300]", "replicates=60", "figures=[excess_risk]")


def problem(**changes: Any) -> HmmRiskConfig:
    """A state that grows with the width, as in the default configuration, or one of fixed size."""
    hmm = changes.pop("hmm", None) or LinearGaussianConfig(
        loading=Loading.identity, state_dim=None, spectral_radius=0.95
    )
    settings: dict[str, Any] = {"num_train": 12, "widths": [4, 6, 24], "replicates": 3, "ridge": [0.0, 0.5]}
    return HmmRiskConfig(hmm=hmm, **(settings | changes))


def table_of(config: HmmRiskConfig, workers: int = 1) -> list[Row]:
    cells = expand(config)
    rows = [row for _, rows in run_all(cells, list(units(cells)), workers) for row in rows]
    return list(table_rows(rows, cells))


def exact(rows: list[Row]) -> str:
    """Rows to the last digit; NaN, which stands where there is no such line, equals itself here."""
    return json.dumps(rows)


def measured(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], tuple[float, ...]]:
    """Measured numbers by what they belong to."""
    return {tuple(row[key] for key in keys): tuple(row[name] for name in MEASURED) for row in rows}


def test_workers_that_cannot_be_started_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pool, "ProcessPoolExecutor", full)
    with pytest.raises(RunError, match=r"workers cannot be started \(No space left .*workers=1 goes on without"):
        table_of(problem(), workers=2)


FIXED = LinearGaussianConfig(state_dim=8)
PROBLEMS = {"growing state": problem, "fixed state": lambda **changes: problem(hmm=FIXED, **changes)}
by_problem = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS.keys())


@by_problem
def test_the_same_seed_gives_the_same_table(make: Callable[..., HmmRiskConfig]) -> None:
    assert exact(table_of(make())) == exact(table_of(make()))
    assert measured(table_of(make(seed=1)), "width") != measured(table_of(make()), "width")


@by_problem
def test_the_order_of_work_makes_no_difference(make: Callable[..., HmmRiskConfig]) -> None:
    cells = expand(make())
    backwards = list(units(cells))[::-1]
    worker = WorkerState(cells)
    rows = [row for unit in backwards for row in worker.run(unit)]
    assert exact(list(table_rows(rows, cells))) == exact(table_of(make()))


@by_problem
@pytest.mark.parametrize(
    ("key", "few", "many"),
    [
        ("width", {"widths": [4, 6, 24]}, {"widths": [4, 6, 8, 12, 24]}),
        ("observation_noise", {"observation_noise": [0.5]}, {"observation_noise": [0.3, 0.5, 0.8]}),
        ("num_train", {"num_train": [12]}, {"num_train": [8, 12]}),
        ("replicate", {"replicates": 3}, {"replicates": 5}),
        ("ridge", {"ridge": [0.5]}, {"ridge": [0.0, 0.5, 1.0]}),
    ],
)
def test_one_more_point_leaves_the_other_rows_as_they_were(
    key: str, few: dict[str, Any], many: dict[str, Any], make: Callable[..., HmmRiskConfig]
) -> None:
    keys = ("num_train", "observation_noise", "width", "ridge", "replicate")
    before, after = measured(table_of(make(**few)), *keys), measured(table_of(make(**many)), *keys)
    assert len(after) > len(before)
    assert {place: after[place] for place in before} == before


def test_a_unit_that_was_cut_short_is_done_again() -> None:
    cells = expand(problem())
    every_unit = list(units(cells))
    worker = WorkerState(cells)
    rows = {unit: worker.run(unit) for unit in every_unit}
    cut, *whole = every_unit
    recorded = [row for unit in whole for row in rows[unit]] + rows[cut][:-1]
    done = recorded_pieces(recorded, cells)
    assert done == {Piece(0, 0, replicate) for replicate in range(3)}
    assert list(units(cells, done)) == [cut] == [Unit(0, with_theory=True)]
    assert list(units(cells, recorded_pieces([], cells))) == every_unit


DISCRETE = HmmRiskConfig(
    hmm=DiscreteConfig(num_states=[3, 7], num_tokens=5),
    representation=RepresentationConfig(name=RepresentationName.posterior),
    num_train=8,
    gammas=shipped_keys()["gammas"],
    context_length=4,
    population_sequences=1000,
    replicates=2,
)


def without_lines(rows: Sequence[Any]) -> int:
    """The number of rows at widths of the grid: as many for each piece."""
    return sum(row["kind"] != "between" for row in rows)


@pytest.mark.parametrize("config", [problem(hmm=FIXED), DISCRETE], ids=["linear-Gaussian", "discrete"])
def test_a_sweep_that_is_extended_ends_like_one_that_was_as_large_from_the_start(config: HmmRiskConfig) -> None:
    small, large = expand(config), expand(replace(config, replicates=4, problems=2))
    worker = WorkerState(small)
    recorded = [row for unit in units(small) for row in worker.run(unit)]
    for kept in (len(recorded), len(recorded) - 3):
        rows = recorded[:kept]
        done = recorded_pieces(rows, large)
        rows = [row for row in rows if Piece.of(row) in done]
        worker = WorkerState(large)
        more = [row for unit in units(large, done) for row in worker.run(unit)]
        # the first problem's draws are as they were, and nothing is computed twice
        assert without_lines(rows + more) == count_pieces(large) * without_lines(recorded) // count_pieces(small)
        whole = table_of(replace(config, replicates=4, problems=2))
        assert exact(list(table_rows(rows + more, large))) == exact(whole)
        first = [row for row in whole if row["problem"] == 0 and row["replicate"] < config.replicates]
        assert exact(first) == exact(table_of(config))


def test_problems_differ_in_what_is_drawn_and_in_their_rows() -> None:
    rows = table_of(problem(hmm=FIXED, problems=3, widths=[4], ridge=[0.0]))
    assert [(row["problem"], row["replicate"]) for row in rows] == [(k, r) for k in range(3) for r in range(3)]
    assert len({row["noise_floor"] for row in rows}) == 3
    assert len({row["excess_risk"] for row in rows}) == 9


@pytest.mark.parametrize("make", [problem, lambda **changes: problem(hmm=FIXED, **changes)])
def test_without_draws_there_is_theory_alone(make: Callable[..., HmmRiskConfig]) -> None:
    config = make(replicates=0)
    rows = table_of(config)
    known = {(row["width"], row["ridge"]): row["theory_excess_risk"] for row in table_of(make())}
    assert {(row["width"], row["ridge"]): row["theory_excess_risk"] for row in rows} == known
    lines = curves(rows)
    columns, body = summary_table(lines)
    assert len(body) == len(rows)
    assert not {"excess", "s.e.", "bias", "total", "summary"} & set(columns)
    assert any("in theory" in sentence for sentence in verdict(lines, is_one_problem=False))


def test_a_figure_of_what_has_no_theory_needs_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FigureSpec(columns=("weight_norm",), draw=pytest.fail)
    monkeypatch.setattr("lab.experiments.hmm_risk.grid.expand.figure", lambda name: spec)
    assert expand(problem(figures=["norm"]))
    with pytest.raises(ConfigError, match=r"figures=norm: it draws weight_norm, which has no theory"):
        expand(problem(figures=["norm"], replicates=0))


@pytest.mark.slow
def test_the_interval_of_two_levels_holds_a_known_truth() -> None:
    """200 sweeps of 40 problems: mean and s.e. as they are printed, against the mean of the exact finite-n line."""
    hmm = LinearGaussianConfig(transition=Transition.general, state_dim=8, state_noise=0.6)
    settings: dict[str, Any] = {"hmm": hmm, "num_train": 30, "widths": [6], "ridge": [0.0]}
    theory = table_of(problem(**settings, replicates=0, problems=5000, seed=10**6))
    truth = float(np.mean([row["theory_exact"] for row in theory]))
    covered = narrow = 0
    for seed in range(200):
        columns, (row,) = summary_table(curves(table_of(problem(**settings, replicates=3, problems=40, seed=seed))))
        mean, error, within = (float(row[columns.index(name)] or 0) for name in ("excess", "s.e.", "s.e. within"))
        covered += abs(mean - truth) < 2 * error
        narrow += abs(mean - truth) < 2 * within
    print(f"truth {truth:.5f}; held by {covered} of 200 intervals of both levels, {narrow} of draws of the rows alone")
    assert 0.92 * 200 <= covered <= 0.98 * 200
    assert narrow < covered


@pytest.mark.slow
@pytest.mark.parametrize("discrete", [False, True])
def test_resume_goes_on_with_more_draws_more_problems_and_other_figures(
    discrete: bool, lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    of_posterior = ("representation=posterior", "hmm.num_states=[4,9]", "population_sequences=1000", "num_train=20")
    hmm = ("hmm=dirichlet", *of_posterior, "figures=[excess_risk]") if discrete else ("hmm=general", *LONG)
    words = ("hmm-risk", "sweep", *hmm, *([] if discrete else ["observation_noise=0.5", "hmm.state_dim=6"]))
    grown, whole = outputs / "hmm_risk" / "runs" / "grown", outputs / "hmm_risk" / "runs" / "whole"
    more = ("replicates=6", "problems=3", "figures=[total_risk]")
    for done in (
        lab(*words, "replicates=2", "workers=1", f"hydra.run.dir={grown}"),
        lab(*words, *more, f"hydra.run.dir={whole}"),
    ):
        assert done.code == 0, done.err
    before = (grown / "metrics.jsonl").read_bytes()
    with working(
        lab_command, grown, "resume=grown", *more, f"workers={1 if discrete else 2}", rows=before.count(b"\n") + 1
    ) as process:
        process.send_signal(signal.SIGKILL)
    # what was typed then counts from then on
    done = lab("hmm-risk", "sweep", "resume=grown")
    assert done.code == 0, done.err
    assert (grown / "table.parquet").read_bytes() == (whole / "table.parquet").read_bytes()
    assert (grown / "metrics.jsonl").read_bytes().startswith(before)
    assert json.loads((grown / "config.json").read_text()) == json.loads((whole / "config.json").read_text())
    assert (grown / "figures" / "total_risk.png").exists()
    kept = {path: path.read_bytes() for path in grown.iterdir() if path.is_file() and path.name != "lab.log"}
    done = lab("hmm-risk", "sweep", "resume=grown", "replicates=5")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "replicates=6, not 5; give 6 or more" in done.err
    assert {path: path.read_bytes() for path in kept} == kept


def started(lab_command: tuple[str, ...], directory: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*lab_command, "hmm-risk", "sweep", *words, *_directory(words, directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell makes what it starts in the background ignore Ctrl-C, these tests included
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _directory(words: tuple[str, ...], directory: Path) -> list[str]:
    return [] if any(word.startswith("resume=") for word in words) else [f"hydra.run.dir={directory}"]


@contextmanager
def working(
    lab_command: tuple[str, ...], directory: Path, *words: str, rows: int = 30
) -> Iterator["subprocess.Popen[str]"]:
    """A sweep in a process of its own that has recorded some rows, and has more to do."""
    process = started(lab_command, directory, *words)
    try:
        metrics, patience = directory / "metrics.jsonl", time.monotonic() + 60
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < rows:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < patience, "nothing was recorded in a minute"
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def status_of(directory: Path) -> str:
    return str(json.loads((directory / "status.json").read_text())["status"])


def children_of(process: int) -> list[int]:
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return [pid for pid, parent in pairs if parent == process]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_one_process_and_two_give_the_same_table(lab: Lab, outputs: Path) -> None:
    tables = []
    for workers in (1, 2):
        done = lab("hmm-risk", "sweep", *SMALL, f"workers={workers}", f"hydra.run.dir={outputs / str(workers)}")
        assert done.code == 0, done.err
        tables.append((outputs / str(workers) / "table.parquet").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["resume", "same directory"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_sweep_ends_with_the_numbers_of_one_that_was_not(
    how: str, workers: int, lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    words = (*LONG, f"workers={workers}")
    killed, whole = outputs / "hmm_risk" / "runs" / "killed", outputs / "hmm_risk" / "runs" / "whole"
    done = lab("hmm-risk", "sweep", *words, f"hydra.run.dir={whole}")
    assert done.code == 0, done.err
    for rows in (30, 400):
        with working(lab_command, killed, *words, rows=rows) as process:
            children = children_of(process.pid)
            process.send_signal(signal.SIGKILL)
        assert len(children) >= (workers if workers > 1 else 0)
        time.sleep(2)
        assert [child for child in children if is_alive(child)] == [], "workers outlive the command"
        assert "killed" in lab("runs", env={"COLUMNS": "200"}).out.partition("runs/killed")[2].split("\n")[0]
    assert not (killed / "table.parquet").exists()
    before = (killed / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    if how == "resume":
        done = lab("hmm-risk", "sweep", "resume=killed")
    else:
        done = lab("hmm-risk", "sweep", *words, f"hydra.run.dir={killed}")
    assert done.code == 0, done.err
    assert status_of(killed) == "finished"
    assert exact(read_table(killed / "table.parquet")) == exact(read_table(whole / "table.parquet"))
    # what was recorded was not done again: only the rows of a unit that was cut short may be gone
    after = (killed / "metrics.jsonl").read_bytes().splitlines()
    assert len(set(after)) == len(after) == len((whole / "metrics.jsonl").read_bytes().splitlines())
    assert len(set(before) & set(after)) > len(before) - 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_says_so_and_goes_on(
    number: signal.Signals, workers: int, lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    words = (*LONG, f"workers={workers}")
    directory = outputs / "hmm_risk" / "runs" / "interrupted"
    with working(lab_command, directory, *words) as process:
        children = children_of(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert said.rstrip().splitlines()[-1].startswith("lab: interrupted")
        assert "Traceback" not in said
    assert status_of(directory) == "interrupted"
    time.sleep(1)
    assert [child for child in children if is_alive(child)] == []
    done = lab("hmm-risk", "sweep", "resume=interrupted")
    assert done.code == 0, done.err
    assert status_of(directory) == "finished"


@pytest.mark.slow
def test_two_sweeps_cannot_write_into_one_directory(lab: Lab, lab_command: tuple[str, ...], outputs: Path) -> None:
    directory = outputs / "one"
    with working(lab_command, directory, *LONG, "workers=1"):
        done = lab("hmm-risk", "sweep", *LONG, "workers=1", f"hydra.run.dir={directory}")
        assert done.code == 2
        assert done.err.startswith("lab: ")
        assert "is open in another process" in done.err
        assert status_of(directory) == "running"


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_a_sweep_with_one_line(lab_command: tuple[str, ...], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        with working(lab_command, disk / "run", *LONG, "workers=1") as process:
            with contextlib.suppress(OSError), open(disk / "of somebody else", "wb", buffering=0) as file:
                while file.write(bytes(1024)):
                    pass
            _, said = process.communicate(timeout=100)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert process.returncode == 2
    # the progress bar stands in front of it
    assert said.rstrip().splitlines()[-1].startswith("lab: ")
    assert "the disk is full; free some space" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_a_sweep_with_one_line(
    lab: Lab, lab_command: tuple[str, ...], outputs: Path
) -> None:
    directory = outputs / "hmm_risk" / "runs" / "killed"
    with working(lab_command, directory, *LONG, "workers=2") as process:
        workers = [
            child for child in children_of(process.pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
        ]
        os.kill(workers[0], signal.SIGKILL)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in printed
    assert printed.rstrip().splitlines()[-1].startswith("lab: a worker was killed")
    assert "resume=RUN workers=1" in printed
    done = lab("hmm-risk", "sweep", "resume=killed", "workers=1")
    assert done.code == 0, done.err
    assert status_of(directory) == "finished"
