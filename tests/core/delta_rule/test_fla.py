"""Flash-linear-attention behind our signatures.

Anywhere: the package's own recurrence in torch stands for its kernels, with the limits that these have, so that what is
passed to them and back is checked. On a GPU: the kernels themselves.
"""

from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lab.core.delta_rule import DeltaRuleOutput, fla, gated_delta_rule
from lab.core.delta_rule.chunked import autograd
from lab.core.delta_rule.decode.step import step, step_portable
from lab.core.errors import BackendError
from lab.core.operators.backends import resolve

SHARING = [(4, 4, 4), (4, 2, 2), (2, 2, 4), (1, 4, 2)]
PACKED = (0, 5, 5, 70, 90)
# on a GPU float32 products are rounded to TF32's 10 bits; largest error relative to the largest number
TOLERANCES = {torch.float32: 3e-3, torch.float16: 3e-3, torch.bfloat16: 2e-2}

with_package = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("fla", "einops")), reason="fla-core or einops is not installed"
)
with_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or any(find_spec(name) is None for name in ("fla", "triton", "einops")),
    reason="no CUDA device, or fla-core, triton or einops is not installed",
)


def drawn(
    sharing: tuple[int, int, int] = (2, 2, 4), tokens: int = 90, states: int = 1, size: int = 16, **to: Any
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    q_heads, k_heads, v_heads = sharing
    drawn = {
        "q": normal(1, tokens, q_heads, size),
        "k": normalize(normal(1, tokens, k_heads, size), dim=-1),
        "v": normal(1, tokens, v_heads, 2 * size),
    }
    drawn = {name: tensor.to(**to) for name, tensor in drawn.items()} if to else drawn
    drawn["g"] = -normal(1, tokens, 4).exp() / 5
    drawn["beta"] = torch.sigmoid(normal(1, tokens, 4))
    drawn["initial_state"] = normal(states, 4, 2 * size, size)
    return {name: tensor.to(to["device"]) if "device" in to else tensor for name, tensor in drawn.items()}


def naive() -> Callable[..., Any]:
    """The recurrence that the package ships beside its kernels, loaded without them."""
    package = find_spec("fla")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "ops" / "gated_delta_rule" / "naive.py"
    spec = spec_from_file_location("fla_naive_gated_delta_rule", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.naive_recurrent_gated_delta_rule


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the kernels; the names of those that were called."""
    recurrence, calls = naive(), []

    def kernel(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
        def run(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            *,
            g: Tensor,
            beta: Tensor,
            scale: float,
            initial_state: Tensor | None,
            output_final_state: bool,
            state_v_first: bool,
            cu_seqlens: Tensor | None = None,
            chunk_size: int = 64,
        ) -> tuple[Tensor, Tensor]:
            calls.append(name)
            assert output_final_state
            assert state_v_first
            assert chunk_size in (16, 32, 64)
            assert {g.dtype, beta.dtype, torch.float32 if initial_state is None else initial_state.dtype} == {
                torch.float32
            }
            assert q.shape == k.shape
            assert v.shape[2] == g.shape[2] == beta.shape[2]
            q, k = (tensor.repeat_interleave(v.shape[2] // q.shape[2], dim=2) for tensor in (q, k))
            starts = [0, q.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
            outputs, states = [], []
            for number, (start, stop) in enumerate(pairwise(starts)):
                part = slice(start, stop)
                state = None if initial_state is None else initial_state.mT
                if state is not None and cu_seqlens is not None:
                    state = state[number : number + 1]
                y, state = recurrence(
                    *(tensor[:, part] for tensor in (q, k, v)),
                    beta=beta[:, part],
                    g=g[:, part],
                    scale=scale,
                    initial_state=state,
                    output_final_state=True,
                )
                outputs.append(y)
                states.append(state.mT)
            return torch.cat(outputs, dim=1).to(q.dtype), torch.cat(states)

        return run

    monkeypatch.setattr(fla, "_kernel", kernel)
    fla._compare_once.cache_clear()
    return calls


def assert_close(found: DeltaRuleOutput, wanted: DeltaRuleOutput) -> None:
    torch.testing.assert_close(found.y, wanted.y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.final_state, wanted.final_state, rtol=1e-4, atol=1e-5)


@with_package
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("starts", [None, PACKED])
def test_what_is_passed_on_and_back_fits(
    sharing: tuple[int, int, int], starts: tuple[int, ...] | None, stand_in: list[str]
) -> None:
    inputs = drawn(sharing, states=1 if starts is None else len(starts) - 1)
    packed = None if starts is None else torch.tensor(starts, dtype=torch.int32)
    for chosen in (inputs, {name: tensor for name, tensor in inputs.items() if name != "initial_state"}):
        found = fla.gated_delta_rule(**chosen, scale=0.4, cu_seqlens=packed)
        assert_close(found, autograd.gated_delta_rule(**chosen, scale=0.4, cu_seqlens=packed))
    assert set(stand_in) == {"chunk_gated_delta_rule"}


@with_package
@pytest.mark.parametrize("sharing", SHARING)
def test_a_step_that_is_passed_on_advances_the_state_in_place(
    sharing: tuple[int, int, int], stand_in: list[str]
) -> None:
    inputs = drawn(sharing, tokens=1)
    state = inputs.pop("initial_state")
    token = [tensor[:, 0] for tensor in inputs.values()]
    wanted_state, address, out = state.clone(), state.data_ptr(), torch.empty(1, 4, 32)
    wanted = step_portable(wanted_state, *token, scale=0.4)
    assert fla.step(state, *token, scale=0.4, out=out) is out
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, wanted_state, rtol=1e-4, atol=1e-5)
    assert state.data_ptr() == address
    assert set(stand_in) == {"fused_recurrent_gated_delta_rule"}


@with_package
@pytest.mark.parametrize("chunk_size", [1, 24, 1000, None])
def test_any_chunk_size_is_taken(chunk_size: int | None, stand_in: list[str]) -> None:
    inputs = drawn(tokens=5)
    assert_close(fla.gated_delta_rule(**inputs, chunk_size=chunk_size), autograd.gated_delta_rule(**inputs))


@with_package
@pytest.mark.parametrize("starts", [None, (0, 0, 0)])
def test_no_tokens_leave_the_state_as_it_was(starts: tuple[int, ...] | None, stand_in: list[str]) -> None:
    inputs = drawn(tokens=0, states=1 if starts is None else 2)
    found = fla.gated_delta_rule(**inputs, cu_seqlens=None if starts is None else torch.tensor(starts))
    assert found.y.shape == (1, 0, 4, 32)
    assert torch.equal(found.final_state, inputs["initial_state"])


@with_package
def test_keys_that_are_too_wide_are_refused(stand_in: list[str]) -> None:
    with pytest.raises(BackendError, match="keys of up to 256 channels, not 257; use backend='chunked'"):
        fla.gated_delta_rule(**drawn(tokens=1, size=257))


@with_package
@pytest.mark.parametrize("operator", ["delta_rule", "delta_rule_step"])
def test_a_kernel_that_is_wrong_is_found_out_at_its_first_use(
    operator: str, stand_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fla._kernel

    def wrong(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
        def decaying_too_much(*args: Tensor, g: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
            return right(name)(*args, g=1.5 * g, **options)

        return decaying_too_much

    inputs = drawn(tokens=3)
    state = inputs["initial_state"].clone()
    token = [inputs[name][:, 0] for name in ("q", "k", "v", "g", "beta")]
    use = {"delta_rule": lambda: fla.gated_delta_rule(**inputs), "delta_rule_step": lambda: fla.step(state, *token)}
    monkeypatch.setattr(fla, "_kernel", wrong)
    with pytest.raises(BackendError, match=rf"{operator} backend='fla' differs .* choose another backend"):
        use[operator]()
    monkeypatch.setattr(fla, "_kernel", right)
    use[operator]()


def test_a_dtype_that_the_kernels_have_not_is_refused_with_the_cure() -> None:
    with pytest.raises(BackendError, match="float32, not float64; cast"):
        resolve("delta_rule", "fla", torch.device("cuda"), torch.float64)


def difference(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double().cpu(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.gpu
@with_gpu
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("starts", [None, PACKED])
def test_the_kernels_agree_with_the_definition(
    dtype: torch.dtype, sharing: tuple[int, int, int], starts: tuple[int, ...] | None
) -> None:
    inputs = drawn(sharing, states=1 if starts is None else len(starts) - 1, size=32, device="cuda", dtype=dtype)
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    exact = {name: tensor.detach().double().cpu().requires_grad_() for name, tensor in inputs.items()}
    packed = None if starts is None else torch.tensor(starts)
    found = gated_delta_rule(**leaves, scale=0.4, cu_seqlens=None if packed is None else packed.cuda(), backend="fla")
    wanted = gated_delta_rule(**exact, scale=0.4, cu_seqlens=packed, backend="reference")
    for part, oracle in zip(found, wanted, strict=True):
        assert difference(part, oracle) < TOLERANCES[dtype]
    weights = [torch.randn(part.shape, generator=torch.Generator().manual_seed(1)) for part in wanted]
    gradients = torch.autograd.grad(
        found, list(leaves.values()), [weight.to(part) for weight, part in zip(weights, found, strict=True)]
    )
    expected = torch.autograd.grad(wanted, list(exact.values()), [weight.double() for weight in weights])
    errors = {name: difference(a, b) for name, a, b in zip(leaves, gradients, expected, strict=True)}
    assert max(errors.values()) < 3 * TOLERANCES[dtype], errors


@pytest.mark.gpu
@with_gpu
def test_a_step_of_the_kernel_is_that_of_the_definition() -> None:
    inputs = drawn(tokens=1, size=32, device="cuda")
    state = inputs.pop("initial_state")
    token = [tensor[:, 0] for tensor in inputs.values()]
    wanted_state = state.cpu()
    wanted = step(wanted_state, *(part.cpu() for part in token), scale=0.4, backend="reference")
    assert difference(step(state, *token, scale=0.4, backend="fla"), wanted.double()) < 5e-6
    assert difference(state, wanted_state.double()) < 5e-6
