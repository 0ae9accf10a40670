"""The chunked gated delta rule, both tiers, against the recurrence in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from drawn import one_in
from lab.core.delta_rule import DeltaRuleOutput, reference

Tensors = dict[str, Tensor]
Operator = Callable[..., DeltaRuleOutput]

LENGTHS = (1, 2, 63, 64, 65, 127, 500, 1000)
CHUNK_SIZES = (1, 16, 32, 64, 128)
# heads of q, k and v, of 4: each its own; shared keys and values, as in grouped-query attention; shared queries and
# keys, as in Qwen3-Next; all different
SHARING = ((4, 4, 4), (4, 2, 2), (2, 2, 4), (1, 4, 2))
SCALE = 0.4

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
    sharing: tuple[int, int, int] = (4, 2, 2)
    batch: int = 2
    num_heads: int = 4
    key_dim: int = 6
    value_dim: int = 5
    has_initial_state: bool = True
    starts: tuple[int, ...] | None = None

    def tensors(self, dtype: torch.dtype = torch.float64) -> Tensors:
        """Drawn in float64, so that a case means the same in every dtype; a strength above 1 flips what is held."""
        generator = torch.Generator().manual_seed(self.num_tokens)
        tokens, (q_heads, k_heads, v_heads) = (self.batch, self.num_tokens), self.sharing

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        num_sequences = self.batch if self.starts is None else len(self.starts) - 1
        drawn = {
            "q": draw(*tokens, q_heads, self.key_dim),
            "k": normalize(draw(*tokens, k_heads, self.key_dim), dim=-1),
            "v": draw(*tokens, v_heads, self.value_dim),
            "g": -draw(*tokens, self.num_heads).exp() / 5,
            "beta": 2 * torch.sigmoid(draw(*tokens, self.num_heads)),
        }
        if self.has_initial_state:
            drawn["initial_state"] = draw(num_sequences, self.num_heads, self.value_dim, self.key_dim) / 2
        return {name: tensor.to(dtype) for name, tensor in drawn.items()}

    def options(self) -> dict[str, object]:
        return {"scale": SCALE, "cu_seqlens": None if self.starts is None else torch.tensor(self.starts)}


@dataclass(frozen=True, slots=True)
class Result:
    """Outputs, and the gradient of a fixed random function of both of them in every tensor."""

    output: DeltaRuleOutput
    gradients: Tensors


def run(operator: Operator, tensors: Tensors, **options: object) -> Result:
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
    return Result(DeltaRuleOutput(*(part.detach() for part in output)), gradients)


@cache
def recurrence(case: Case) -> Result:
    """The oracle, in float64."""
    return run(reference.gated_delta_rule, case.tensors(), **case.options())


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


def varied(num_tokens: int, number: int) -> Case:
    """Options that differ from case to case, so that a few of them meet every length and chunk size."""
    return Case(num_tokens, SHARING[number % 4], has_initial_state=number % 3 < 2)


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_outputs_and_gradients_match_the_recurrence(operator: Operator, num_tokens: int) -> None:
    number = LENGTHS.index(num_tokens)
    case = varied(num_tokens, number)
    for chunk_size in (CHUNK_SIZES[number % 5], CHUNK_SIZES[(number + 2) % 5], None):
        found = run(operator, case.tensors(), chunk_size=chunk_size, **case.options())
        assert_close(found, recurrence(case), torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(("num_tokens", "chunk_size"), one_in(4, list(product(LENGTHS, CHUNK_SIZES)), of="delta rule"))
def test_every_combination_matches_the_recurrence(operator: Operator, num_tokens: int, chunk_size: int) -> None:
    for number in range(12):
        case = varied(num_tokens, number)
        for dtype in (torch.float64, torch.float32):
            found = run(operator, case.tensors(dtype), chunk_size=chunk_size, **case.options())
            assert_close(found, recurrence(case), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize(("key_dim", "value_dim"), [(1, 1), (16, 16), (32, 64), (33, 31), (64, 32), (3, 70)])
def test_every_size_of_a_head_matches_the_recurrence(
    operator: Operator, key_dim: int, value_dim: int, sharing: tuple[int, int, int]
) -> None:
    case = Case(70, sharing, batch=1, key_dim=key_dim, value_dim=value_dim)
    for dtype in (torch.float64, torch.float32):
        found = run(operator, case.tensors(dtype), **case.options())
        assert_close(found, recurrence(case), dtype)


@pytest.mark.parametrize("sharing", [(6, 6, 6), (1, 1, 1), (6, 1, 1), (2, 2, 6), (2, 3, 6), (3, 2, 1)])
def test_every_way_to_share_heads_matches_the_recurrence(operator: Operator, sharing: tuple[int, int, int]) -> None:
    case = Case(40, sharing, num_heads=6)
    assert_close(run(operator, case.tensors(), **case.options()), recurrence(case), torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_dtype_sums_without_loss(operator: Operator, dtype: torch.dtype) -> None:
    case = Case(300)
    tensors = case.tensors(dtype)
    for name in ("g", "beta", "initial_state"):
        tensors[name] = tensors[name].to(torch.float64 if dtype == torch.float64 else torch.float32)
    found = run(operator, tensors, **case.options())
    expected = run(
        reference.gated_delta_rule, {name: tensor.double() for name, tensor in tensors.items()}, **case.options()
    )
    assert found.output.y.dtype == dtype
    assert found.output.final_state.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert {name: gradient.dtype for name, gradient in found.gradients.items()} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    assert_close(found, expected, dtype)


def test_the_reference_gives_the_dtypes_of_the_others() -> None:
    case = Case(3)
    output = reference.gated_delta_rule(**case.tensors(torch.bfloat16), **case.options())
    assert (output.y.dtype, output.final_state.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("sharing", [pytest.param((4, 2, 2), marks=pytest.mark.slow), (1, 4, 2)])
def test_gradients_match_finite_differences(operator: Operator, sharing: tuple[int, int, int]) -> None:
    case = Case(5, sharing, batch=1, key_dim=3, value_dim=2)
    tensors = {name: tensor.requires_grad_() for name, tensor in case.tensors().items()}

    def outputs(*values: Tensor) -> DeltaRuleOutput:
        return operator(**dict(zip(tensors, values, strict=True)), chunk_size=2, **case.options())

    assert torch.autograd.gradcheck(outputs, tuple(tensors.values()))


@pytest.mark.parametrize("sharing", SHARING)
def test_packed_sequences_match_the_recurrence(operator: Operator, sharing: tuple[int, int, int]) -> None:
    case = Case(300, sharing, batch=1, starts=(0, 1, 64, 64, 129, 300))
    assert_close(run(operator, case.tensors(), **case.options()), recurrence(case), torch.float64)


def strong_then_weak(shape: torch.Size) -> Tensor:
    """Ten tokens that erase the state a thousand times over, then next to no decay."""
    decay = torch.full(shape, -1e-3, dtype=torch.float64)
    decay[:, :10] = -1e3
    return decay


EXTREMES: dict[str, Callable[[torch.Size], Tensor]] = {
    "all is forgotten": lambda shape: torch.full(shape, -1e4, dtype=torch.float64),
    "nothing is forgotten": lambda shape: torch.zeros(shape, dtype=torch.float64),
    "next to nothing is forgotten": lambda shape: torch.full(shape, -1e-30, dtype=torch.float64),
    "strong, then weak": strong_then_weak,
    "by turns": lambda shape: (
        torch.tensor([-1e3, -1e-6], dtype=torch.float64).repeat(shape[1] // 2)[:, None].expand(shape)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_decays_stay_finite_and_exact(operator: Operator, name: str, dtype: torch.dtype) -> None:
    case = Case(130)
    tensors = case.tensors()
    tensors["g"] = EXTREMES[name](tensors["g"].shape)
    rounded = {key: value.to(dtype) for key, value in tensors.items()}
    expected = run(reference.gated_delta_rule, {key: value.double() for key, value in rounded.items()}, scale=SCALE)
    found = run(operator, rounded, scale=SCALE)
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
    assert found.output.y.shape == (case.batch, 0, 4, 5)
    assert torch.equal(found.output.final_state, tensors["initial_state"])
    assert found.gradients["initial_state"].abs().sum() > 0 or found.gradients["initial_state"].numel() == 0


def test_an_empty_batch_gives_an_empty_output(operator: Operator) -> None:
    case = Case(7, batch=0)
    assert run(operator, case.tensors(), **case.options()).output.y.shape == (0, 7, 4, 5)


def test_autocast_does_not_reach_the_sums(operator: Operator) -> None:
    case = Case(70)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(operator, case.tensors(torch.float32), **case.options())
    assert_close(found, recurrence(case), torch.float32)
