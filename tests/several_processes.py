"""Runs of `lab distill` in several processes, which torchrun starts, and how far their ends are from each other."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.core.train.state import checkpoints

STAGES = (1, 2, 3)
# in float64, where what is left of a difference is rounding
SIZES = (
    "teacher.hovle=null",
    "teacher.precision=float64",
    "threads=1",
    "figures=[]",
    "evaluation.num_batches=1",
    "evaluation.num_validation_batches=1",
    "evaluation.batch_size=4",
    "data.picture_questions.num_questions=2",
    *(f"stage_{stage}.{key}" for stage in STAGES for key in ("batch_size=1", "accumulation=4", "log_every=1")),
    *(f"stage_{stage}.{key}" for stage in STAGES for key in ("evaluate_every=10", "checkpoint_every=5")),
)


class Launcher:
    """Starts `lab distill` in this output folder, alone or in several processes."""

    def __init__(self, root: Path, command: tuple[str, ...], teacher: Path) -> None:
        self.root = root
        self._command = command
        self._teacher = teacher

    def words(self, name: str, *overrides: str, steps: int = 20) -> list[str]:
        lengths = [f"stage_{stage}.steps={steps}" for stage in STAGES]
        place = f"hydra.run.dir={self.root / name}"
        return [*self._command, "distill", f"teacher.path={self._teacher}", *SIZES, *lengths, place, *overrides]

    def start(self, words: list[str], size: int, *, restarts: int = 0) -> "subprocess.Popen[str]":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        several = [*torchrun, f"--max-restarts={restarts}", "--no-python"] if size > 1 else []
        return subprocess.Popen(
            [*several, *words],
            env={**os.environ, "LAB_OUTPUTS": str(self.root), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, *overrides: str, size: int = 1, steps: int = 20) -> Path:
        """Run or go on; where it is."""
        process = self.start(self.words(name, *overrides, steps=steps), size)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
        return self.root / name

    def interrupt(self, name: str, *overrides: str, size: int, steps: int, at: int) -> None:
        """Begin or go on, and send SIGTERM once a checkpoint of that step or a later one is there."""
        process = self.start(self.words(name, *overrides, steps=steps), size)
        deadline = time.monotonic() + 300
        while process.poll() is None and newest(self.root / name) < at:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        process.communicate(timeout=120)


def newest(run: Path) -> int:
    """The step of the newest checkpoint; -1 for none."""
    return max((int(path.name[-8:]) for path in run.glob("checkpoints/*/step_*")), default=-1)


def ends(run: Path) -> dict[str, Tensor]:
    """All tensors at the end of each stage."""
    found = {}
    for folder in sorted(run.glob("checkpoints/*")):
        weights = load_file(checkpoints(folder)[-1] / "model.safetensors")
        found |= {f"{folder.name}/{name}": tensor for name, tensor in weights.items()}
    return found


def moments(run: Path) -> list[Tensor]:
    """The state of the optimizer at the end of each stage, and the position in the data."""
    found = []
    for folder in sorted(run.glob("checkpoints/*")):
        state = torch.load(checkpoints(folder)[-1] / "state.pt", weights_only=True)
        for values in state["optimizer"]["state"].values():
            found += [values["exp_avg"], values["exp_avg_sq"]]
        found.append(torch.tensor(list(state["data"].values())))
    return found


def rows(run: Path) -> list[dict[str, Any]]:
    """What was recorded, but for times and checksums."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "crc32")} for line in lines]


def farthest(first: Path, second: Path) -> float:
    """The largest difference between the ends of two runs: weights, moments, and losses relative to themselves."""
    ours, theirs = ends(first), ends(second)
    assert ours.keys() == theirs.keys()
    assert ours
    pairs = [(ours[name], theirs[name]) for name in ours] + list(zip(moments(first), moments(second), strict=True))
    distance = max(float((one.double() - other.double()).abs().max()) for one, other in pairs)
    for one, other in zip(rows(first), rows(second), strict=True):
        assert one.keys() == other.keys()
        for key in ("loss", "gradient_norm", "kl_per_token", "tokens"):
            if one.get(key) is not None:
                distance = max(distance, abs(one[key] - other[key]) / max(1.0, abs(one[key])))
    return distance
