"""One loop: what a step is, how it ends, and that it goes on to the last bit."""

import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.errors import CheckpointError, ConfigError, RunError
from lab.core.parallel.ranks import Ranks
from lab.core.runs.early_signals import SIGNALS
from lab.core.train.digests import read_meta
from lab.core.train.loop import TrainConfig, fit
from lab.core.train.state import checkpoint_path, checkpoints, load_tensors
from reference.toy_training import Toy


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


CONFIG = TrainConfig(steps=12, evaluate_every=5, checkpoint_every=4)


def test_training_lowers_the_loss_and_records_every_step(tmp_path: Path) -> None:
    toy = Toy()
    before = toy.validate()
    toy.fit(tmp_path, TrainConfig(steps=40, learning_rate=0.05, evaluate_every=20, checkpoint_every=20))
    assert toy.validate() < 0.5 * before
    assert [row["step"] for row in toy.rows if row["kind"] == "train"] == list(range(1, 41))
    assert [row["step"] for row in toy.rows if row["kind"] == "validation"] == [0, 20, 40]
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000040"]


def test_accumulated_batches_give_the_step_of_their_mean(tmp_path: Path) -> None:
    split, joined = Toy(noise=0.0), Toy(noise=0.0)
    config = {"steps": 3, "gradient_clip": 100.0}

    def step(*, scale: float) -> Mapping[str, float]:
        loss = joined.loss(torch.cat([joined.data.next(), joined.data.next()]))
        torch.autograd.backward(scale * loss)
        return {"loss": float(loss.detach()), "tokens": 16}

    split.fit(tmp_path / "split", TrainConfig(accumulation=2, **config))
    joined.fit(tmp_path / "joined", TrainConfig(**config), step)
    for name, weight in split.weights().items():
        torch.testing.assert_close(weight, joined.weights()[name])
    assert [row["metrics"]["tokens"] for row in split.rows if row["kind"] == "train"] == [16] * 3
    losses = [[row["metrics"]["loss"] for row in toy.rows if row["kind"] == "train"] for toy in (split, joined)]
    assert losses[0] == pytest.approx(losses[1])


def test_a_long_gradient_is_clipped(tmp_path: Path) -> None:
    gradients: list[Tensor] = []
    toy = Toy()

    def step(*, scale: float) -> Mapping[str, float]:
        row = toy.step(scale=1000 * scale)
        return row

    optimizer = toy.state.optimizer
    optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in toy.model.parameters() if p.grad is not None]))
    )
    toy.fit(tmp_path, TrainConfig(steps=2, gradient_clip=0.5), step)
    assert [float(gradient.norm()) for gradient in gradients] == pytest.approx([0.5, 0.5])
    assert all(row["gradient_norm"] > 100 for row in toy.rows if row["kind"] == "train")


@pytest.mark.parametrize("stop_at", [1, 4, 7, 11])
def test_a_stopped_training_goes_on_to_the_last_bit(tmp_path: Path, stop_at: int) -> None:
    torch.manual_seed(3)
    whole = Toy()
    whole.fit(tmp_path / "whole", CONFIG)

    torch.manual_seed(3)
    first = Toy()

    def stopped(*, scale: float) -> Mapping[str, float]:
        if first.state.step + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return first.step(scale=scale)

    with pytest.raises(KeyboardInterrupt):
        first.fit(tmp_path / "cut", CONFIG, stopped)
    assert first.state.step == stop_at

    torch.manual_seed(99)
    second = Toy()
    assert second.state.load_newest(tmp_path / "cut")
    assert second.state.step == stop_at
    second.fit(tmp_path / "cut", CONFIG)
    for name, weight in whole.weights().items():
        assert torch.equal(weight, second.weights()[name])
    assert without_time(first.rows + second.rows) == without_time(whole.rows)
    assert read_meta(checkpoints(tmp_path / "cut")[-1]) == read_meta(checkpoints(tmp_path / "whole")[-1])


def test_a_signal_behind_the_look_for_one_is_answered_after_the_next_checkpoint(tmp_path: Path) -> None:
    toy = Toy()

    class Late(Ranks):
        def gathered(self, value: Any) -> list[Any]:
            if value is False and toy.state.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return [value]

    toy.state.layout.ranks = Late()
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path, CONFIG)
    assert toy.state.step == 7
    assert checkpoints(tmp_path)[-1].name == "step_00000007"


@contextmanager
def handled(number: int, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


class Requeued(Exception):
    """What a handler of somebody else raises."""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_answered_after_the_step_by_whoever_handled_it_before(tmp_path: Path, number: int) -> None:
    toy = Toy()
    steps: list[int] = []

    def step(*, scale: float) -> Mapping[str, float]:
        if toy.state.step == 3:
            os.kill(os.getpid(), number)
        return toy.step(scale=scale)

    def leave(received: int, frame: object) -> None:
        steps.append(int(checkpoints(tmp_path)[-1].name.removeprefix("step_")))
        raise Requeued

    with handled(number, leave):
        with pytest.raises(Requeued):
            toy.fit(tmp_path, CONFIG, step)
        assert signal.getsignal(number) == leave
    assert steps == [4]


def test_a_handler_that_returns_means_that_training_goes_on(tmp_path: Path) -> None:
    toy = Toy()
    heard: list[tuple[int, int]] = []

    def step(*, scale: float) -> Mapping[str, float]:
        if toy.state.step in (2, 6):
            # twice the same one is one
            for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
                os.kill(os.getpid(), number)
        return toy.step(scale=scale)

    def hear(received: int, frame: object) -> None:
        heard.append((int(checkpoints(tmp_path)[-1].name.removeprefix("step_")), received))

    with handled(signal.SIGTERM, hear), handled(signal.SIGUSR2, hear):
        toy.fit(tmp_path, CONFIG, step)
    assert heard == [(step, number) for step in (3, 7) for number in (signal.SIGUSR2, signal.SIGTERM)]
    assert toy.state.step == CONFIG.steps


def test_an_ignored_signal_is_ignored_in_training_too(tmp_path: Path) -> None:
    toy = Toy()

    def step(*, scale: float) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return toy.step(scale=scale)

    with handled(signal.SIGINT, signal.SIG_IGN):
        toy.fit(tmp_path, CONFIG, step)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert toy.state.step == CONFIG.steps


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    toy = Toy()

    def step(*, scale: float) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one comes first")

    # what a shell starts in the background ignores it
    with handled(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path, CONFIG, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000000"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_in_one_line_before_it_does_harm(tmp_path: Path, bad: float) -> None:
    toy = Toy()

    def step(*, scale: float) -> Mapping[str, float]:
        row = toy.step(scale=scale)
        if toy.state.step == 6:
            assert toy.model.bias.grad is not None
            toy.model.bias.grad.fill_(bad)
        return row

    with pytest.raises(RunError, match=r"stage_1, step 7: .*lower stage_1\.learning_rate=0\.001"):
        toy.fit(tmp_path, CONFIG, step)
    assert all(weight.isfinite().all() for weight in toy.weights().values())
    assert toy.state.step == 6


def test_the_newest_checkpoint_and_the_best_are_kept(tmp_path: Path) -> None:
    toy = Toy()
    losses = iter([3.0, 3.0, 1.0, 2.0, 2.0])
    fit(
        toy.state,
        toy.step,
        TrainConfig(steps=20, evaluate_every=5, checkpoint_every=7),
        name="stage_1",
        folder=tmp_path,
        validate=lambda: next(losses),
        log=toy.rows.append,
    )
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000010", "step_00000020"]
    meta = read_meta(checkpoint_path(tmp_path, 20))
    assert (meta["best_step"], meta["best_loss"]) == (10, 1.0)


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    Toy().fit(tmp_path, CONFIG)
    partial = tmp_path / ".partial-step_00000013.abc"
    partial.mkdir()
    toy = Toy()
    assert toy.state.load_newest(tmp_path)
    assert toy.state.step == 12
    assert not partial.exists()


def test_tensors_of_another_model_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    toy = Toy()
    toy.fit(tmp_path, CONFIG)
    path = checkpoints(tmp_path)[-1]
    weight, bias = torch.zeros(2, 3), torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"bias has shape \(2,\) but the model's is \(3,\)"):
        load_tensors(path, into={"bias": bias, "weight": weight})
    with pytest.raises(CheckpointError, match="only the model has gate"):
        load_tensors(path, into={"weight": weight, "bias": torch.zeros(2), "gate": bias})
    assert not weight.any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("accumulation", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("beta2", 1.0),
        ("warmup", 0.95),
        ("decay", -0.1),
        ("weight_decay", -1.0),
        ("gradient_clip", 0.0),
    ],
)
def test_a_bad_number_is_refused_by_its_key(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        TrainConfig(**{key: value})
