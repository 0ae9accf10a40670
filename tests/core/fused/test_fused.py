"""Fused operations and their gradients against torch's own, in double precision and in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lab.core.fused import native
from lab.core.fused.rms_norm import rms_norm
from lab.core.fused.rotation import rotated
from lab.core.fused.silu_product import silu_product

TOLERANCES = {torch.float64: 1e-14, torch.float32: 1e-6}
# less than a vector, whole vectors, and a rest; more rows than the sums of one task
WIDTHS = [1, 8, 16, 67, 2048]


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways, where there is a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(native, "can_run", lambda *_: False)
    elif native.why_not() is not None:
        pytest.skip("there is no compiler")
    return str(request.param)


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def compare(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values, and gradients of every input that is not an angle."""
    exact = [x.clone().requires_grad_() for x in inputs]
    expected = theirs(*exact)
    slopes = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).view(expected.shape)
    wanted = torch.autograd.grad((expected * slopes).sum(), exact)
    for dtype, tolerance in TOLERANCES.items():
        # gradients of the first input alone, then of all: each is computed where it is needed
        for num_trained in (0, 1, len(inputs)):
            given = [x.to(dtype).clone().requires_grad_(k < num_trained) for k, x in enumerate(inputs)]
            found = ours(*given)
            assert found.dtype == dtype
            assert close(found.detach(), expected.detach(), tolerance)
            if num_trained:
                gradients = torch.autograd.grad((found * slopes.to(dtype)).sum(), given[:num_trained])
                assert all(close(a, b, 30 * tolerance) for a, b in zip(gradients, wanted, strict=False))


def close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found.double() - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_norm_is_torchs(width: int) -> None:
    x, weight = drawn((3, 50, width), (width,))
    compare(
        lambda x, w: rms_norm(x, w, eps=1e-5),
        lambda x, w: functional.rms_norm(x, (width,), w, eps=1e-5),
        x,
        weight,
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_product_is_torchs(width: int) -> None:
    compare(silu_product, lambda a, b: functional.silu(a) * b, *(4 * x for x in drawn((3, 5, width), (3, 5, width))))


@pytest.mark.parametrize(("width", "turned"), [(16, 16), (16, 4), (128, 128), (70, 68)])
def test_the_rotation_is_that_of_complex_numbers(width: int, turned: int) -> None:
    x, angles = drawn((2, 7, 2, 3, width), (7, turned // 2))

    def turn(x: Tensor) -> Tensor:
        first, second = x[..., :turned].chunk(2, dim=-1)
        product = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)[:, None, None]
        return torch.cat([product.real, product.imag, x[..., turned:]], dim=-1)

    compare(lambda x: rotated(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype)), turn, x)


def test_slices_are_read_in_place_and_left_as_they_are(way: str) -> None:
    if way == "torch":
        pytest.skip("torch computes strided numbers by another formula")
    packed, angles = drawn((2, 7, 2, 5, 16), (7, 8))
    heads, before = packed[..., :-1, :], packed.clone()
    found = rotated(heads, angles.cos(), angles.sin())
    assert torch.equal(found, rotated(heads.contiguous(), angles.cos(), angles.sin()))
    assert torch.equal(packed, before)
    x, weight = drawn((6, 40), (20,))
    assert torch.equal(rms_norm(x[:, ::2], weight, eps=0.1), rms_norm(x[:, ::2].contiguous(), weight, eps=0.1))
    assert torch.equal(silu_product(x[:, ::2], x[:, 1::2]), silu_product(x[:, ::2].clone(), x[:, 1::2].clone()))


def test_the_number_of_threads_changes_no_bit(way: str) -> None:
    if way == "torch":
        pytest.skip("torch sums a weight's gradient by thread")
    x, weight = (part.float() for part in drawn((700, 128), (128,)))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
            y = silu_product(rms_norm(*inputs, eps=1e-6), inputs[0])
            found.append([y.detach(), *torch.autograd.grad(y.square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_halves_are_torchs() -> None:
    x, weight = (part.bfloat16() for part in drawn((5, 64), (64,)))
    assert torch.equal(rms_norm(x, weight, eps=1e-6), weight * functional.rms_norm(x, (64,), eps=1e-6))
    assert torch.equal(silu_product(x, x), functional.silu(x) * x)
