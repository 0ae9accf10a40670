"""Runs of `lab distill` in several processes, and how far their ends are from each other."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.core.train.state import checkpoints
from warm_commands import Finished

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
    """Starts `lab distill` in this output folder, alone or in several processes: by torchrun, or forked."""

    def __init__(
        self, root: Path, command: tuple[str, ...], teacher: Path, forked_lab: Callable[..., Finished]
    ) -> None:
        self.root = root
        self._command = command
        self._teacher = teacher
        self._forked_lab = forked_lab

    def words(self, name: str, *overrides: str, steps: int = 20) -> list[str]:
        return [*self._command, *self._arguments(name, *overrides, steps=steps)]

    def _arguments(self, name: str, *overrides: str, steps: int) -> list[str]:
        lengths = [f"stage_{stage}.steps={steps}" for stage in STAGES]
        place = f"hydra.run.dir={self.root / name}"
        return ["distill", f"teacher.path={self._teacher}", *SIZES, *lengths, place, *overrides]

    @property
    def _variables(self) -> dict[str, str]:
        return {"LAB_OUTPUTS": str(self.root), "OMP_NUM_THREADS": "1"}

    def start(self, words: list[str], size: int, *, restarts: int = 0) -> "subprocess.Popen[str]":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        several = [*torchrun, f"--max-restarts={restarts}", "--no-python"] if size > 1 else []
        return subprocess.Popen(
            [*several, *words],
            env={**os.environ, **self._variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, *overrides: str, size: int = 1, steps: int = 20) -> Path:
        """Run or go on, in processes that are forked with everything loaded; where it is."""
        words = self._arguments(name, *overrides, steps=steps)
        done = self._forked_lab(*words, cwd=self.root, env=self._variables, ranks=ranks(size))
        assert done.code == 0, done.err
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


def ranks(size: int) -> list[dict[str, str]]:
    """The variables of processes that were started together; one is started alone."""
    if size == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


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
