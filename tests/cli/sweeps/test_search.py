"""`hydra/sweeper=optuna`: a search that is killed goes on with the trials that are left, in the folders it began."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Typed = Callable[..., Any]
needs_plugin = pytest.mark.skipif(
    find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="needs hydra-optuna-sweeper",
)
FEW = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=3")


def words(folder: Path, tiny: tuple[str, ...], *more: str) -> list[str]:
    own = [word for word in tiny if not word.startswith(("observation_noise", "figures"))]
    space = ("snr=interval(0.5,4)", "figures=[]", f"hydra.sweep.dir={folder}")
    return ["hmm-risk", "sweep", "-m", *FEW, *own, *space, *more]


@needs_plugin
@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_with_what_is_left(
    outputs: Path, tiny: tuple[str, ...], lab_command: tuple[str, ...]
) -> None:
    def again(*own: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*lab_command, *own], capture_output=True, text=True, timeout=300, check=False)

    folder = outputs / "hmm_risk" / "sweeps" / "search"
    command = [*lab_command, *words(folder, tiny, "replicates=1000")]
    with subprocess.Popen(command, env={**os.environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        # in the middle of the second trial
        while not (folder / "1" / "metrics.jsonl").exists() or not (folder / "1" / "metrics.jsonl").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert json.loads((folder / "1" / "status.json").read_text())["status"] == "running"
    cut_off = json.loads((folder / "1" / "overrides.json").read_text())
    done = again("hmm-risk", "sweep", "resume=search")
    assert (done.returncode, "is a search; type its command again" in done.stderr) == (2, True)
    done = again(*words(folder, tiny, "replicates=1000"))
    assert done.returncode == 0, done.stderr
    assert "lab: 1 of 5 trials are done; 4 are left" in done.stderr
    points = sorted(path.parent for path in folder.glob("*/status.json"))
    assert [point.name for point in points] == list("01234")
    assert {json.loads((point / "status.json").read_text())["status"] for point in points} == {"finished"}
    assert json.loads((folder / "1" / "overrides.json").read_text()) == cut_off
    assert len({(point / "overrides.json").read_text() for point in points}) == 5
    before = {point: (point / "table.parquet").stat().st_mtime_ns for point in points}
    done = again(*words(folder, tiny, "replicates=1000"))
    assert (done.returncode, "5 of 5 trials are done; 0 are left" in done.stderr) == (0, True)
    assert before == {point: (point / "table.parquet").stat().st_mtime_ns for point in points}


@needs_plugin
def test_a_dry_run_of_a_search_checks_the_corners(typed: Typed, outputs: Path, tiny: tuple[str, ...]) -> None:
    done = typed(*words(outputs / "search", tiny, "num_train=20,0", "--dry-run"))
    assert (done.code, "num_train=0" in done.err) == (2, True)
    done = typed(*words(outputs / "search", tiny, "num_train=20,30", "--dry-run"))
    assert done.code == 0, done.err
    assert done.out.startswith("5 points, chosen while it goes on")
    assert "num_train=20 snr=0.5" in done.out
    done = typed(*words(outputs / "search", tiny, "hydra/launcher=slurm_cpu", "--no-wait"))
    assert (done.code, "--no-wait with hydra/sweeper=optuna" in done.err) == (2, True)
    assert not outputs.exists()


def test_a_search_without_the_plugin_names_what_installs_it(
    typed: Typed, outputs: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.cli.sweeps.search.find_spec", lambda name: None)
    done = typed(*words(outputs / "search", tiny))
    assert (done.code, "pip install -e '.[optuna]'" in done.err) == (2, True)
