"""`--no-wait`: jobs are submitted to a stand-in for Slurm, and left; to a real one in tests/faults/slurm."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.cli.sweeps.points import Command

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

Typed = Callable[..., Any]
ON_SLURM = ("hydra/launcher=slurm_cpu", "--no-wait")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that submit nothing: `queue` is what squeue prints; with a file `refused`, sbatch fails."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "sbatch": f'cd "{folder}"; if test -e refused; then cat refused >&2; exit 1; fi\n'
        'cp "$1" script; echo Submitted batch job 77',
        "srun": "exit 1",
        "squeue": f'cat "{folder}/queue"',
    }
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    (folder / "queue").write_text("")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def runs(typed: Typed) -> dict[str, tuple[str, str | None]]:
    return {Path(run["run"]).name: (run["status"], run["job"]) for run in json.loads(typed("runs", "--json").out)}


@pytest.mark.slow
def test_points_are_submitted_and_followed(
    slurm: Path, typed: Typed, outputs: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = outputs / "hmm_risk" / "sweeps" / "left"
    words = ("hmm-risk", "sweep", "-m", *tiny, "seed=1,2,3", f"hydra.sweep.dir={folder}")
    assert typed(*words[:4], "seed=1", f"hydra.sweep.dir={folder}", *words[4:-2]).code == 0
    done = typed(*words, *ON_SLURM)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == str(folder)
    assert "lab: 1 of 3 points are finished and skipped: 0\n" in done.err
    assert "lab: job 77: 2 points; `lab runs` follows them\n" in done.err
    # an array of the two that are missing
    assert "#SBATCH --array=0-1%" in (slurm / "script").read_text()
    assert json.loads((folder / "jobs.json").read_text()) == {"1": "77_0", "2": "77_1"}
    (slurm / "queue").write_text("77_0 RUNNING\n77_1 PENDING\n")
    assert runs(typed) == {
        "0": ("finished", None),
        "1": ("waiting", "job 77_0, RUNNING"),
        "2": ("waiting", "job 77_1, PENDING"),
    }
    monkeypatch.setenv("COLUMNS", "200")
    assert "job 77_1, PENDING" in typed("runs").out
    done = typed(*words, *ON_SLURM)
    assert (done.code, f"{folder / '1'} waits as job 77_0" in done.err) == (2, True)
    assert [line.split()[-1] for line in typed(*words, "--dry-run").out.splitlines() if str(folder / "2") in line] != []
    (slurm / "queue").write_text("")
    assert runs(typed)["2"] == ("waiting", "job 77_1 is not in the queue any more; type the sweep's command again")
    done = typed("hmm-risk", "sweep", "resume=left", "hydra/launcher=slurm_cpu", "--no-wait")
    assert "lab: job 77: 2 points" in done.err
    (slurm / "queue").write_text("")
    # here and now instead
    done = typed(*words)
    assert done.code == 0, done.err
    assert [state for state, _ in runs(typed).values()] == ["finished"] * 3


def test_what_cannot_be_submitted_leaves_nothing_behind(
    slurm: Path, typed: Typed, outputs: Path, tiny: tuple[str, ...]
) -> None:
    for said in ("sbatch: error: Batch job submission failed: Invalid account\n", ""):
        (slurm / "refused").write_text(said)
        done = typed("hmm-risk", "sweep", "-m", *tiny, "seed=1,2", *ON_SLURM)
        # submitit shows what sbatch said, too
        assert done.code == 2, done.err
        last = done.err.splitlines()[-1]
        assert last.startswith(f"lab: the jobs were not submitted: {said.strip() or 'sbatch failed'}"), done.err
    assert list(outputs.rglob("status.json")) == []


def test_leaving_is_refused_where_there_is_nothing_to_leave(typed: Typed, outputs: Path, tiny: tuple[str, ...]) -> None:
    for words in ((), ("-m",), ("-m", "hydra/launcher=submitit_local")):
        done = typed("hmm-risk", "sweep", *tiny, "--no-wait", *words)
        assert (done.code, "--no-wait leaves jobs to Slurm" in done.err) == (2, True)
    done = typed("slurm", "script", "hmm-risk", "sweep", "--no-wait", "time=60")
    assert (done.code, "--no-wait: a job runs a command as it stands" in done.err) == (2, True)
    assert not outputs.exists()


def test_points_are_skipped_and_left_batch_by_batch(
    typed: Typed, slurm: Path, outputs: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = outputs / "hmm_risk" / "sweeps" / "left"
    monkeypatch.setattr(Command, "is_finished", lambda command, point: point.number in (0, 1, 3))
    words = ("hmm-risk", "sweep", "-m", *tiny, "seed=1,2,3,4,5", f"hydra.sweep.dir={folder}")
    done = typed(*words, *ON_SLURM, "hydra.sweeper.max_batch_size=2")
    assert done.code == 0, done.err
    assert done.err.count("points are finished") == 1
    assert "lab: 3 of 5 points are finished and skipped: 0-1, 3\n" in done.err
    assert done.err.count("lab: job 77: 1 points") == 2
    assert json.loads((folder / "jobs.json").read_text()) == {"2": "77", "4": "77"}
