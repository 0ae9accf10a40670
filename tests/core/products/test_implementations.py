"""Every implementation of the products of a linear layer against float64."""

# Letters: R rows, I inputs, O outputs.

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lab.core.products.implementations import IMPLEMENTATIONS, Implementation, Operation

CPU = torch.device("cpu")
# of the largest entry; bfloat16 has 8 bits, its sums have 24
TOLERANCES = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 8e-3}


def implementation_of(name: str, dtype: torch.dtype) -> Implementation:
    implementation = IMPLEMENTATIONS[name]
    reason = implementation.why_not(CPU, dtype)
    if reason is not None:
        pytest.skip(reason)
    return implementation


def drawn(seed: int, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def check_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    largest = max(float(expected.abs().max()), 1.0)
    assert float((found.double() - expected).abs().max()) <= TOLERANCES[found.dtype] * largest


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@settings(max_examples=40)
@given(rows=st.integers(1, 20), inputs=st.integers(1, 70), outputs=st.integers(1, 40), has_bias=st.booleans())
def test_the_three_products_are_those_of_float64(
    name: str, dtype: torch.dtype, rows: int, inputs: int, outputs: int, has_bias: bool
) -> None:
    implementation = implementation_of(name, dtype)
    x, weight = drawn(0, rows, inputs, dtype=dtype), drawn(1, outputs, inputs, dtype=dtype)
    gradient = drawn(2, rows, outputs, dtype=dtype)
    bias = drawn(3, outputs, dtype=dtype) if has_bias else None
    wide = x.double(), weight.double(), gradient.double()
    results = {
        Operation.forward: ((x, weight, bias), wide[0] @ wide[1].t() + (0 if bias is None else bias.double())),
        Operation.input_gradient: ((gradient, weight), wide[2] @ wide[1]),
        Operation.weight_gradient: ((gradient, x), wide[2].t() @ wide[0]),
    }
    for operation, (operands, expected) in results.items():
        if implementation.has(operation, rows):
            found = implementation.functions[operation](*operands)
            assert found.dtype is dtype
            check_close(found, expected)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_operands_with_any_strides(name: str, dtype: torch.dtype) -> None:
    implementation = implementation_of(name, dtype)
    x, weight = drawn(0, 40, 6, dtype=dtype).t()[:, ::2], drawn(1, 20, 9, dtype=dtype).t()
    gradient, bias = torch.ones((), dtype=dtype).expand(6, 9), drawn(2, 18, dtype=dtype)[::2]
    forward = implementation.functions[Operation.forward]
    check_close(forward(x, weight, bias), x.double() @ weight.double().t() + bias.double())
    if Operation.input_gradient in implementation.functions:
        found = implementation.functions[Operation.input_gradient](gradient, weight)
        check_close(found, gradient.double() @ weight.double())
        found = implementation.functions[Operation.weight_gradient](gradient, x)
        check_close(found, gradient.double().t() @ x.double())


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 530, 301), (7, 1024, 258), (16, 577, 130)])
def test_the_loop_is_the_same_on_every_number_of_threads(
    dtype: torch.dtype, rows: int, inputs: int, outputs: int
) -> None:
    forward = implementation_of("native", dtype).functions[Operation.forward]
    x, weight = drawn(0, rows, inputs, dtype=dtype), drawn(1, outputs, inputs, dtype=dtype)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(forward(x, weight, None))
    finally:
        torch.set_num_threads(before)
    assert found[0].equal(found[1])
    check_close(found[0], x.double() @ weight.double().t())


def test_infinity_and_nan_stay_where_they_are() -> None:
    forward = implementation_of("native", torch.bfloat16).functions[Operation.forward]
    x = torch.tensor([[1.0, 0.0], [torch.inf, 1.0], [torch.nan, 1.0]], dtype=torch.bfloat16)
    found = forward(x, torch.eye(2, dtype=torch.bfloat16), None)
    assert found[0].tolist() == [1, 0]
    assert found[1, 0].isinf()
    assert found[2].isnan().all()


def test_what_cannot_run_says_why() -> None:
    for name in ("onednn", "native", "packed"):
        assert IMPLEMENTATIONS[name].why_not(torch.device("cuda"), torch.float32) == "it needs a CPU"
        assert "not float16" in str(IMPLEMENTATIONS[name].why_not(CPU, torch.float16))
    assert "not float64" in str(IMPLEMENTATIONS["onednn"].why_not(CPU, torch.float64))
    assert IMPLEMENTATIONS["torch"].why_not(torch.device("cuda"), torch.float16) is None
