"""The schedule's shape, and which tensors decay."""

import pytest
import torch
from torch import nn

from lab.core.errors import InputError
from lab.core.train.optim import adamw, warmup_stable_decay


def factors(steps: int, warmup: float, decay: float) -> list[float]:
    return [warmup_stable_decay(step, steps=steps, warmup=warmup, decay=decay) for step in range(steps)]


def test_the_rate_rises_stays_and_falls() -> None:
    assert factors(10, 0.2, 0.3) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_a_schedule_without_ends_is_flat() -> None:
    assert factors(5, 0.0, 0.0) == [1.0] * 5


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_no_step_is_without_a_rate(steps: int) -> None:
    assert all(0 < factor <= 1 for factor in factors(steps, 0.5, 0.5))


def test_matrices_decay_and_nothing_else_does() -> None:
    parameters = {
        "proj.weight": nn.Parameter(torch.ones(2, 2)),
        "conv1d.weight": nn.Parameter(torch.ones(3, 1, 2)),
        "conv1d.bias": nn.Parameter(torch.ones(3)),
        "A_log": nn.Parameter(torch.ones(4)),
        "dt_bias": nn.Parameter(torch.ones(4)),
        "g_norm.weight": nn.Parameter(torch.ones(2)),
    }
    optimizer = adamw(parameters, learning_rate=0.1, weight_decay=0.5, betas=(0.9, 0.99))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in parameters.items() if not torch.equal(parameter, torch.ones_like(parameter))}
    assert moved == {"proj.weight", "conv1d.weight"}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.99)}


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="there is nothing to train"):
        adamw({}, learning_rate=0.1, weight_decay=0.0, betas=(0.9, 0.99))
