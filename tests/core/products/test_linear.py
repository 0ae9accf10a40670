"""Linear layers are `torch.nn.Linear`, whatever computes their products."""

# Letters: R rows, I inputs, O outputs.

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.core.errors import BackendError
from lab.core.products import current
from lab.core.products.implementations import IMPLEMENTATIONS, ONEDNN, TORCH, Implementation, Operation
from lab.core.products.linear import Linear, linear

CPU = torch.device("cpu")
TOLERANCES = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.fixture(params=IMPLEMENTATIONS)
def forced(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each implementation, asked for by name."""
    reason = IMPLEMENTATIONS[request.param].why_not(CPU, torch.float32)
    if reason is not None:
        pytest.skip(reason)
    with current.using(request.param):
        yield request.param


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found: Tensor | None, expected: Tensor | None) -> bool:
    assert found is not None
    assert expected is not None
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    scale = max(float(expected.detach().abs().max()), 1.0)
    return float((found - expected).detach().abs().max()) <= TOLERANCES[found.dtype] * scale


def gradients(function: Callable[..., Tensor], *operands: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of those operands that require one."""
    y = function(*operands)
    upstream = drawn(9, *y.shape, dtype=y.dtype)
    return y, *torch.autograd.grad(y, [part for part in operands if part.requires_grad], upstream)


def test_a_layer_has_the_parameters_and_the_initialisation_of_torch() -> None:
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
        ours = Linear(6, 4)
        torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
        theirs = nn.Linear(6, 4)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(ours.state_dict()[name].equal(tensor) for name, tensor in theirs.state_dict().items())
    assert isinstance(ours, nn.Linear)
    assert Linear(6, 4, bias=False).bias is None


@pytest.mark.parametrize("rows", [(), (1,), (3, 5), (20, 2)], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_output_and_gradients(forced: str, rows: tuple[int, ...], has_bias: bool) -> None:
    operands = [drawn(0, *rows, 12), drawn(1, 7, 12), *([drawn(2, 7)] if has_bias else [])]
    ours, theirs = ([part.clone().requires_grad_() for part in operands] for _ in range(2))
    for found, expected in zip(gradients(linear, *ours), gradients(functional.linear, *theirs), strict=True):
        assert close(found, expected)
        assert forced != "torch" or found.equal(expected)


@pytest.mark.parametrize("name", ["torch", "native"])
def test_gradients_are_those_of_the_output(name: str) -> None:
    if IMPLEMENTATIONS[name].why_not(CPU, torch.float64) is not None:
        pytest.skip("there is no C++ compiler")
    with current.using(name):
        layer = Linear(5, 3).double()
        x = drawn(0, 2, 4, 5, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(layer, (x,))
        parameters = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
        assert torch.autograd.gradcheck(linear, (x, *parameters))


class Counted:
    """Torch's products in the place of another implementation's, and how often each was computed."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        functions = {operation: self._counting(operation) for operation in Operation}
        self.implementation = Implementation("counted", TORCH.why_not, functions)

    def _counting(self, operation: Operation) -> Callable[..., Tensor]:
        def function(*operands: Tensor) -> Tensor:
            self.calls.append(operation.value)
            return TORCH.functions[operation](*operands)

        return function


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """What was asked for by name, in this test."""
    counted = Counted()
    monkeypatch.setitem(IMPLEMENTATIONS, "counted", counted.implementation)
    monkeypatch.setattr(current, "STATE", current.State("counted"))
    return counted


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ("x", ["forward", "input gradient"]),
        ("weight", ["forward", "weight gradient"]),
        ("bias", ["forward"]),
        ("x weight bias", ["forward", "input gradient", "weight gradient"]),
    ],
)
def test_a_gradient_that_nobody_needs_is_not_computed(counted: Counted, trained: str, expected: list[str]) -> None:
    operands = {"x": drawn(0, 5, 12), "weight": drawn(1, 7, 12), "bias": drawn(2, 7)}
    for name in trained.split():
        operands[name].requires_grad_()
    y = linear(**operands)
    y.sum().backward()
    assert counted.calls == expected
    assert [name for name, part in operands.items() if part.grad is not None] == trained.split()


def test_no_graph_where_none_is_wanted(counted: Counted) -> None:
    x, weight = drawn(0, 5, 12).requires_grad_(), drawn(1, 7, 12).requires_grad_()
    with torch.no_grad():
        assert not linear(x, weight).requires_grad
    with torch.inference_mode():
        assert linear(x, weight).is_inference()
    assert not linear(x.detach(), weight.detach()).requires_grad
    assert counted.calls == ["forward"] * 3


@pytest.mark.parametrize("is_trained", [False, True])
def test_under_autocast_the_product_is_in_its_dtype(forced: str, is_trained: bool) -> None:
    if IMPLEMENTATIONS[forced].why_not(CPU, torch.bfloat16) is not None:
        pytest.skip("there are no instructions for bfloat16")
    parts = [drawn(0, 2, 5, 12), drawn(1, 7, 12), drawn(2, 7)]
    ours, theirs = ([part.clone().requires_grad_(is_trained) for part in parts] for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = linear(*ours), functional.linear(*theirs)
    assert y.dtype is torch.bfloat16
    assert close(y, expected)
    if is_trained:
        for result in (y, expected):
            result.backward(drawn(9, *y.shape, dtype=y.dtype))
        for our, their in zip(ours, theirs, strict=True):
            assert our.grad is not None
            assert our.grad.dtype is torch.float32
            assert their.grad is not None
            assert close(our.grad.bfloat16(), their.grad.bfloat16())


@pytest.mark.parametrize("name", ["torch", "native"])
def test_float64_stays_float64_under_autocast(name: str) -> None:
    if IMPLEMENTATIONS[name].why_not(CPU, torch.float64) is not None:
        pytest.skip("there is no C++ compiler")
    x, weight = drawn(0, 3, 4, dtype=torch.float64), drawn(1, 2, 4, dtype=torch.float64)
    with current.using(name), torch.autocast("cpu", torch.bfloat16):
        assert close(linear(x, weight), functional.linear(x, weight))


def test_inputs_with_strides_without_rows_and_without_memory(forced: str) -> None:
    weight = drawn(1, 7, 12)
    x = drawn(0, 3, 12, 5).transpose(1, 2)
    assert close(linear(x, weight), functional.linear(x, weight))
    empty = linear(torch.empty(0, 3, 12, requires_grad=True), weight)
    assert empty.shape == (0, 3, 7)
    empty.sum().backward()
    assert linear(torch.empty(4, 12, device="meta"), weight.to("meta")).shape == (4, 7)


@pytest.mark.wrong_shapes
def test_operands_that_do_not_fit_are_refused_as_by_torch(forced: str) -> None:
    for x, weight, bias in (
        (drawn(0, 3, 12), drawn(1, 7, 11), None),
        (drawn(0, 3, 12), drawn(1, 7, 12, dtype=torch.float64), None),
        (drawn(0, 3, 12), drawn(1, 7, 12), drawn(2, 6)),
    ):
        with pytest.raises(RuntimeError):
            linear(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError):
        linear(drawn(0, 3, 12), drawn(1, 7, 12, dtype=torch.float64))


def test_another_dtype_than_the_implementation_computes_is_refused() -> None:
    with current.using("onednn"), pytest.raises(BackendError, match="float64"):
        linear(drawn(0, 3, 4, dtype=torch.float64), drawn(1, 2, 4, dtype=torch.float64))


def test_a_gradient_of_a_gradient_is_torchs_alone() -> None:
    x, weight = drawn(0, 3, 4).requires_grad_(), drawn(1, 2, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
    gradient.sum().backward()
    assert weight.grad is not None
    if ONEDNN.why_not(CPU, torch.float32) is None:
        with current.using("onednn"):
            (gradient,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
            with pytest.raises(RuntimeError, match="once_differentiable"):
                gradient.sum().backward()
