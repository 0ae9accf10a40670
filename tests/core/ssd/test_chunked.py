"""The chunked SSD operator, both tiers, against the recurrence in float64."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor

from drawn import one_in
from lab.core.ssd import SsdOutput, reference

Tensors = dict[str, Tensor]
Operator = Callable[..., SsdOutput]

LENGTHS = (1, 2, 63, 64, 65, 127, 500, 1000)
CHUNK_SIZES = (16, 32, 64, 128, 256)
GROUPS = (1, 2, 4)

# Largest error of the outputs and of the gradients as a share of the largest entry. 16 bits: the recurrence is given
# the rounded inputs, so what is left is the rounding of y, and of the gradients, to 8 or 11 bits.
TOLERANCES = {
    torch.float64: (1e-12, 1e-10),
    torch.float32: (2e-5, 2e-5),
    torch.bfloat16: (2**-8, 2**-7),
    torch.float16: (2**-11, 2**-10),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A problem that can be made again from its description."""

    num_tokens: int
    num_groups: int = 2
    batch: int = 2
    num_heads: int = 4
    head_dim: int = 6
    state_dim: int = 5
    skip: str = "per head"
    is_biased: bool = True
    has_initial_state: bool = True
    starts: tuple[int, ...] | None = None

    def tensors(self, dtype: torch.dtype = torch.float64) -> Tensors:
        """Drawn in float64, so that a case means the same in every dtype."""
        generator = torch.Generator().manual_seed(self.num_tokens)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        num_heads, head_dim = self.num_heads, self.head_dim
        num_sequences = self.batch if self.starts is None else len(self.starts) - 1
        drawn = {
            "x": draw(self.batch, self.num_tokens, num_heads, head_dim),
            "dt": draw(self.batch, self.num_tokens, num_heads) - 1,
            "A": -torch.exp(draw(num_heads)),
            "B": draw(self.batch, self.num_tokens, self.num_groups, self.state_dim),
            "C": draw(self.batch, self.num_tokens, self.num_groups, self.state_dim),
            "D": {"none": None, "per head": draw(num_heads), "per channel": draw(num_heads, head_dim)}[self.skip],
            "dt_bias": draw(num_heads) if self.is_biased else None,
            "initial_state": draw(num_sequences, num_heads, head_dim, self.state_dim) / 2
            if self.has_initial_state
            else None,
        }
        return {name: tensor.to(dtype) for name, tensor in drawn.items() if tensor is not None}

    def options(self) -> dict[str, object]:
        packed = None if self.starts is None else torch.tensor(self.starts)
        return {"dt_softplus": True, "cu_seqlens": packed}


@dataclass(frozen=True, slots=True)
class Result:
    """Outputs, and the gradient of a fixed random function of both of them in every tensor."""

    output: SsdOutput
    gradients: Tensors


def run(operator: Callable[..., SsdOutput], tensors: Tensors, **options: object) -> Result:
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    output = operator(**leaves, **options)
    generator = torch.Generator().manual_seed(0)
    total = sum(
        (part.double() * torch.randn(part.shape, generator=generator, dtype=torch.float64)).sum() for part in output
    )
    assert isinstance(total, Tensor)
    total.backward()
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert gradients.keys() == leaves.keys()
    return Result(SsdOutput(*(part.detach() for part in output)), gradients)


@cache
def recurrence(case: Case) -> Result:
    """The oracle, in float64."""
    return run(reference.ssd, case.tensors(), **case.options())


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest entry; the difference itself where all is zero."""
    if expected.numel() == 0:
        return 0.0
    largest = float(expected.double().abs().max())
    return float((found.double() - expected.double()).abs().max()) / (largest or 1.0)


def assert_close(found: Result, expected: Result, dtype: torch.dtype) -> None:
    of_output, of_gradients = TOLERANCES[dtype]
    for part, oracle in zip(found.output, expected.output, strict=True):
        assert error(part, oracle) <= of_output
    assert {
        name: error(gradient, expected.gradients[name]) for name, gradient in found.gradients.items()
    } == pytest.approx(dict.fromkeys(expected.gradients, 0.0), abs=of_gradients)


def varied(num_tokens: int, num_groups: int, number: int) -> Case:
    """Options that differ from case to case, so that a few of them meet every length and chunk size."""
    return Case(
        num_tokens,
        num_groups,
        skip=("per head", "per channel", "none")[number % 3],
        is_biased=number % 2 == 0,
        has_initial_state=number % 4 < 3,
    )


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_outputs_and_gradients_match_the_recurrence(operator: Operator, num_tokens: int, chunk_size: int) -> None:
    number = LENGTHS.index(num_tokens) + CHUNK_SIZES.index(chunk_size) % 2
    case = varied(num_tokens, GROUPS[number % 3], number)
    found = run(operator, case.tensors(), chunk_size=chunk_size, **case.options())
    assert_close(found, recurrence(case), torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_tokens", "chunk_size", "num_groups"), one_in(8, list(product(LENGTHS, CHUNK_SIZES, GROUPS)), of="ssd")
)
def test_every_combination_matches_the_recurrence(
    operator: Operator, num_tokens: int, chunk_size: int, num_groups: int
) -> None:
    for number in range(12):
        case = varied(num_tokens, num_groups, number)
        for dtype in (torch.float64, torch.float32):
            found = run(operator, case.tensors(dtype), chunk_size=chunk_size, **case.options())
            assert_close(found, recurrence(case), dtype)


@pytest.mark.parametrize(
    ("head_dim", "state_dim"), [(1, 1), (16, 16), (32, 64), (33, 31), (64, 32), (128, 128), (3, 70)]
)
def test_every_size_of_a_head_matches_the_recurrence(operator: Operator, head_dim: int, state_dim: int) -> None:
    case = Case(70, batch=1, num_heads=2, head_dim=head_dim, state_dim=state_dim)
    for dtype in (torch.float64, torch.float32):
        found = run(operator, case.tensors(dtype), **case.options())
        assert_close(found, recurrence(case), dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_dtype_sums_without_loss(operator: Operator, dtype: torch.dtype) -> None:
    case = Case(300)
    tensors = case.tensors(dtype)
    for name in ("dt", "A", "D", "dt_bias", "initial_state"):
        tensors[name] = tensors[name].to(torch.float64 if dtype == torch.float64 else torch.float32)
    found = run(operator, tensors, **case.options())
    expected = run(reference.ssd, {name: tensor.double() for name, tensor in tensors.items()}, **case.options())
    assert found.output.y.dtype == dtype
    assert found.output.final_state.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert {name: gradient.dtype for name, gradient in found.gradients.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    assert_close(found, expected, dtype)


def test_the_reference_gives_the_dtypes_of_the_others() -> None:
    case = Case(3)
    output = reference.ssd(**case.tensors(torch.bfloat16), **case.options())
    assert (output.y.dtype, output.final_state.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("num_groups", "skip"),
    [
        pytest.param(1, "none", marks=pytest.mark.slow),
        (2, "per channel"),
        pytest.param(4, "per head", marks=pytest.mark.slow),
    ],
)
def test_gradients_match_finite_differences(operator: Operator, num_groups: int, skip: str) -> None:
    case = Case(5, num_groups, batch=1, head_dim=3, state_dim=2, skip=skip)
    tensors = {name: tensor.requires_grad_() for name, tensor in case.tensors().items()}

    def outputs(*values: Tensor) -> SsdOutput:
        return operator(**dict(zip(tensors, values, strict=True)), chunk_size=2, **case.options())

    assert torch.autograd.gradcheck(outputs, tuple(tensors.values()))


STARTS = (0, 1, 64, 64, 129, 300)


@pytest.mark.parametrize("num_groups", GROUPS)
def test_packed_sequences_match_the_recurrence(operator: Operator, num_groups: int) -> None:
    case = Case(300, num_groups, batch=1, starts=STARTS)
    assert_close(run(operator, case.tensors(), **case.options()), recurrence(case), torch.float64)


def strong_then_weak(shape: torch.Size) -> Tensor:
    """Ten tokens that erase the state a thousand times over, then next to no decay."""
    steps = torch.full(shape, 1e-3, dtype=torch.float64)
    steps[:, :10] = 1e3
    return steps


EXTREMES: dict[str, Callable[[torch.Size], Tensor]] = {
    "all is forgotten": lambda shape: torch.full(shape, 1e4, dtype=torch.float64),
    "nothing is written": lambda shape: torch.zeros(shape, dtype=torch.float64),
    "next to nothing is written": lambda shape: torch.full(shape, 1e-30, dtype=torch.float64),
    "strong, then weak": strong_then_weak,
    "by turns": lambda shape: (
        torch.tensor([1e3, 1e-6], dtype=torch.float64).repeat(shape[1] // 2)[:, None].expand(shape)
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_decays_stay_finite_and_exact(operator: Operator, name: str, dtype: torch.dtype) -> None:
    case = Case(130, is_biased=False)
    tensors = case.tensors()
    tensors["dt"] = EXTREMES[name](tensors["dt"].shape).to(dtype)
    expected = run(reference.ssd, {key: value.to(dtype).double() for key, value in tensors.items()})
    found = run(operator, {key: value.to(dtype) for key, value in tensors.items()})
    for gradient in (*found.output, *found.gradients.values()):
        assert torch.isfinite(gradient).all()
    of_output, of_gradients = TOLERANCES[dtype]
    for part, oracle in zip(found.output, expected.output, strict=True):
        assert error(part, oracle) <= of_output
    for key, gradient in found.gradients.items():
        # relative to one where the gradient itself vanishes
        largest = max(1.0, float(expected.gradients[key].abs().max()))
        difference = (gradient.double() - expected.gradients[key]).abs().max()
        assert float(difference) / largest <= of_gradients, key


@pytest.mark.parametrize("case", [Case(0), Case(0, batch=1, starts=(0,)), Case(0, batch=1, starts=(0, 0, 0))])
def test_no_tokens_leave_the_state_as_it_was(operator: Operator, case: Case) -> None:
    tensors = case.tensors()
    found = run(operator, tensors, **case.options())
    assert found.output.y.shape == tensors["x"].shape
    assert torch.equal(found.output.final_state, tensors["initial_state"])
    assert torch.all(found.gradients["A"] == 0)
    assert found.gradients["initial_state"].abs().sum() > 0 or found.gradients["initial_state"].numel() == 0


def test_an_empty_batch_gives_an_empty_output(operator: Operator) -> None:
    case = Case(7, batch=0)
    assert run(operator, case.tensors(), **case.options()).output.y.shape == (0, 7, 4, 6)


def test_autocast_does_not_reach_the_sums(operator: Operator) -> None:
    case = Case(70)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(operator, case.tensors(torch.float32), **case.options())
    assert_close(found, recurrence(case), torch.float32)


def test_options_reach_every_case() -> None:
    cases = {replace(varied(1, 1, number), num_tokens=1) for number in range(12)}
    assert {case.skip for case in cases} == {"none", "per head", "per channel"}
    assert {(case.is_biased, case.has_initial_state) for case in cases} >= {(True, True), (False, False), (False, True)}
