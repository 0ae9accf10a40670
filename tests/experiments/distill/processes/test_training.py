"""Several processes train what one trains with the same batches, and go on with what others have begun."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from several_processes import Launcher, ends, farthest, rows

from drawn import one_in

pytestmark = pytest.mark.slow

DDP = ("parallel.strategy=ddp",)
FSDP = ("parallel.strategy=fsdp",)
CUT = (*FSDP, "parallel.frozen=sharded", "parallel.activation_checkpointing=true")
HYBRID = ("student=hybrid", "student.hybrid.number=1")
CASES = [
    (strategy, (*student, f"student/mixer={mixer}"))
    for strategy, student, mixer in itertools.product((DDP, FSDP, CUT), ((), HYBRID), ("mamba2", "gated_deltanet"))
]


def of_case(case: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    return " ".join(word.rpartition("=")[2] for words in case for word in words)


@pytest.mark.parametrize("case", one_in(4, CASES, of="processes"), ids=of_case)
def test_two_processes_train_what_one_trains(
    case: tuple[tuple[str, ...], tuple[str, ...]], launcher: Launcher, alone: Callable[..., Path]
) -> None:
    strategy, student = case
    two = launcher.run("two " + of_case(case), "stage=all", *strategy, *student, size=2)
    distance = farthest(two, alone(*student))
    print(f"{of_case(case)}: {distance:.2g}")
    assert distance <= 1e-10


def test_products_in_bfloat16_are_those_of_one_process(launcher: Launcher) -> None:
    """Linear layers are gathered in bfloat16, and their gradients added in float32: what autocast would cast."""
    narrow = ("teacher.precision=bfloat16", *(f"stage_{stage}.autocast=true" for stage in (1, 2, 3)))
    one = launcher.run("one narrow", "stage=all", *narrow, steps=3)
    two = launcher.run("two narrow", "stage=all", *narrow, *CUT, size=2, steps=3)
    # weights are float32, of which the last digit differs
    assert farthest(two, one) <= 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=of_case)
def test_two_gpus_train_what_one_trains(
    case: tuple[tuple[str, ...], tuple[str, ...]], launcher: Launcher, alone: Callable[..., Path]
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    strategy, student = case
    two = launcher.run("gpu " + of_case(case), "stage=all", *strategy, *student, "device=cuda", size=2)
    assert farthest(two, alone(*student, "device=cuda")) <= 1e-10


@pytest.mark.parametrize("strategy", one_in(2, [DDP, CUT], of="numbers of processes"), ids=" ".join)
def test_another_number_of_processes_goes_on(strategy: tuple[str, ...], launcher: Launcher) -> None:
    """2, then 1, then 4, then 2 processes; each begins where the one before was interrupted."""
    name, steps = f"on {len(strategy)}", 120
    for size, at in ((2, 5), (1, 30), (4, 60)):
        launcher.interrupt(name, "stage=1", *strategy, size=size, steps=steps, at=at)
    run = launcher.run(name, "stage=1", *strategy, size=2, steps=steps)
    provenance = json.loads((run / "provenance.json").read_text())
    numbers = [each.get("processes", {}).get("number", 1) for each in (*provenance["earlier"], provenance)]
    assert numbers == [2, 1, 4, 2]
    assert farthest(run, launcher.run(f"{name} whole", "stage=1", steps=steps)) <= 1e-6


def test_the_same_number_goes_on_with_the_same_bits(launcher: Launcher) -> None:
    for name in ("whole", "interrupted"):
        if name == "interrupted":
            launcher.interrupt(name, "stage=1", *DDP, size=2, steps=60, at=10)
        launcher.run(name, "stage=1", *DDP, size=2, steps=60)
    whole, interrupted = (launcher.root / name for name in ("whole", "interrupted"))
    assert json.loads((interrupted / "provenance.json").read_text())["earlier"]
    ours, theirs = ends(interrupted), ends(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(interrupted) == rows(whole)
