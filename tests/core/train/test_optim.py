"""The schedule's shape, which tensors decay, the update beside its formula, and clipping."""

import math

import pytest
import torch
from torch import Tensor, nn

from lab.core.errors import InputError
from lab.core.train.optim import adamw, clip_gradients, warmup_stable_decay


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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_update_is_that_of_the_paper(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    weight = nn.Parameter(start.to(dtype, copy=True))
    optimizer = adamw({"weight": weight}, learning_rate=0.02, weight_decay=0.3, betas=(0.9, 0.98))
    expected, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 21):
        gradient = torch.randn(5, 7, generator=generator, dtype=torch.float64)
        weight.grad = gradient.to(dtype)
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.98 * square + 0.02 * gradient**2
        unbiased = (square / (1 - 0.98**step)).sqrt() + 1e-8
        expected = expected - 0.02 * (mean / (1 - 0.9**step) / unbiased + 0.3 * expected)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=tolerance, atol=tolerance)


def with_gradients(*gradients: list[float] | None) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(1 if gradient is None else len(gradient)))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


def gradients_of(parameters: list[nn.Parameter]) -> list[Tensor | None]:
    return [parameter.grad for parameter in parameters]


def test_long_gradients_are_scaled_together() -> None:
    parameters = with_gradients([3.0, 0.0], None, [4.0])
    assert clip_gradients(parameters, 0.5) == 5
    first, none, last = gradients_of(parameters)
    assert none is None
    assert first is not None
    assert last is not None
    torch.testing.assert_close(torch.cat([first, last]), torch.tensor([0.3, 0.0, 0.4]))


@pytest.mark.parametrize("longest", [5.0, 5.0000001, 1e9])
def test_short_gradients_stay_as_they_are(longest: float) -> None:
    parameters = with_gradients([3.0, 0.0], [4.0])
    before = [gradient for gradient in gradients_of(parameters) if gradient is not None]
    versions = [gradient._version for gradient in before]
    assert clip_gradients(parameters, longest) == 5
    assert [gradient.tolist() for gradient in before] == [[3.0, 0.0], [4.0]]
    # nor were they written
    assert [gradient._version for gradient in before] == versions


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_returned(value: float) -> None:
    assert not math.isfinite(clip_gradients(with_gradients([1.0, value]), 1.0))


def test_without_gradients_the_norm_is_zero() -> None:
    assert clip_gradients(with_gradients(None), 1.0) == 0


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="there is nothing to train"):
        adamw({}, learning_rate=0.1, weight_decay=0.0, betas=(0.9, 0.99))
