"""The seed of a mixer: what it takes from the attention, and what is new."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

from lab.core.mixers.base import MixerShape
from lab.core.mixers.initialisation import Initialisation
from lab.core.mixers.mamba2 import SPEC, Mamba2, Mamba2Options
from lab.core.mixers.softmax import SoftmaxAttention, unpack_qkv
from lab.core.models.decoder import LanguageModel, draw_weights

SHAPE = MixerShape(hidden_size=48, num_heads=6, num_kv_heads=2, head_dim=8)
RANDOM = {"dt_bias", "g_proj.weight"}


def attention_of(shape: MixerShape = SHAPE, *, qkv_bias: bool = False) -> SoftmaxAttention:
    attention = SoftmaxAttention(shape, qkv_bias=qkv_bias)
    draw_weights(attention, generator=torch.Generator().manual_seed(0), std=0.3)
    if qkv_bias:
        torch.nn.init.uniform_(attention.wqkv.bias, generator=torch.Generator().manual_seed(1))
    return attention.requires_grad_(False)


def seeded(
    initialisation: Initialisation,
    options: Mamba2Options | None = None,
    *,
    attention: SoftmaxAttention | None = None,
    number: int = 0,
) -> dict[str, Tensor]:
    attention = attention_of() if attention is None else attention
    return SPEC.initial_weights(
        attention.state_dict(),
        attention.shape,
        options or Mamba2Options(),
        initialisation,
        torch.Generator().manual_seed(number),
    )


def test_what_is_not_random_is_what_the_public_code_has(
    teacher: LanguageModel, mixer_tensors: Callable[[str, str], dict[str, Tensor]]
) -> None:
    for layer in teacher.mixer_layers():
        attention = layer.layer.mixer
        assert isinstance(attention, SoftmaxAttention)
        public = mixer_tensors("student_seed", layer.name)
        ours = seeded(Initialisation.mimic, attention=attention)
        assert public.keys() - ours.keys() == {"o_proj.weight"}
        assert public["o_proj.weight"].double().equal(attention.wo.weight)
        for name in ours.keys() - RANDOM:
            assert ours[name].equal(public[name].double()), name
        for name in RANDOM:
            assert ours[name].shape == public[name].shape


def test_a_mimicking_mixer_passes_its_input_through_the_convolution() -> None:
    weights = seeded(Initialisation.mimic)
    mixer = Mamba2(SHAPE)
    mixer.load_state_dict(weights | {"o_proj.weight": attention_of().wo.weight})
    u = torch.randn(2, 7, SHAPE.hidden_size, generator=torch.Generator().manual_seed(2))
    vkq = mixer.vkq_proj(u)
    assert mixer.conv1d is not None
    assert mixer.conv1d(torch.nn.functional.pad(vkq.mT, (1, 0))).mT.equal(vkq)
    assert not weights["in_proj.weight"].any()


def test_memory_of_a_mimicking_mixer_lasts_from_four_to_370_tokens() -> None:
    many = MixerShape(hidden_size=8, num_heads=4096, num_kv_heads=1, head_dim=2)
    weights = seeded(Initialisation.mimic, attention=attention_of(many))
    step_size = softplus(weights["dt_bias"].double())
    decay = torch.exp(-weights["A_log"].double().exp() * step_size)
    assert 0.762 <= decay.min() < 0.764
    assert 0.997 < decay.max() <= 0.9973
    # log-uniform: Kolmogorov and Smirnov's distance, whose 0.1 % point is 1.95 / sqrt(4096)
    share = (step_size.log().sort().values - math.log(0.001)) / math.log(100)
    assert (share - torch.linspace(0, 1, len(share), dtype=torch.float64)).abs().max() < 0.0305


def test_a_mixer_that_does_not_mimic_forgets_within_a_token_or_two() -> None:
    many = MixerShape(hidden_size=8, num_heads=4096, num_kv_heads=1, head_dim=2)
    weights = seeded(Initialisation.inherit, attention=attention_of(many))
    assert not weights["dt_bias"].any()
    rates = weights["A_log"].exp()
    assert 1 <= rates.min() < 1.02
    assert 15.98 < rates.max() <= 16
    assert torch.exp(-rates.min() * softplus(torch.zeros(()))) < 0.5


@pytest.mark.parametrize("norm_before_gate", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_two_timescales_that_are_the_same_are_one(norm_before_gate: bool, skip: bool) -> None:
    attention, outputs = attention_of().double(), []
    u = torch.randn(2, 40, SHAPE.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for timescales in (1, 2):
        options = Mamba2Options(norm_before_gate=norm_before_gate, skip=skip, timescales=timescales)
        weights = seeded(Initialisation.mimic, options, attention=attention)
        if timescales == 1:
            step_sizes = weights["dt_bias"]
        weights["dt_bias"] = step_sizes.repeat_interleave(timescales)
        mixer = Mamba2(SHAPE, options=options).double().requires_grad_(False)
        mixer.load_state_dict(weights | {"o_proj.weight": attention.wo.weight})
        outputs.append(mixer(u))
    torch.testing.assert_close(*outputs, rtol=1e-13, atol=1e-13)


def test_the_two_states_of_a_head_differ_in_their_memory_alone() -> None:
    options = Mamba2Options(timescales=2)
    weights = seeded(Initialisation.mimic, options)
    slow, fast = softplus(weights["dt_bias"].double()).view(6, 2).T
    torch.testing.assert_close(fast / slow, torch.full((6,), 10.0, dtype=torch.float64), rtol=1e-5, atol=0)
    assert ((slow > 1e-3) & (slow < 1e-2)).all()
    assert len(set(slow.tolist())) == 6
    one = seeded(Initialisation.mimic)
    for name in ("vkq_proj.weight", "conv1d.weight", "conv1d.bias"):
        assert weights[name].equal(one[name])
    by_head = weights["g_proj.weight"].view(6, 2, 8, SHAPE.hidden_size)
    assert all(gate.equal(one["g_proj.weight"].view(6, 8, -1)) for gate in by_head.unbind(1))


@pytest.mark.parametrize("initialisation", Initialisation)
def test_queries_keys_and_values_are_the_attention_s_unless_from_scratch(initialisation: Initialisation) -> None:
    attention = attention_of(qkv_bias=True)
    weights = seeded(initialisation, attention=attention)
    for part in ("weight", "bias"):
        q, k, v = unpack_qkv(attention.state_dict()[f"wqkv.{part}"], SHAPE)
        is_inherited = weights[f"vkq_proj.{part}"].equal(torch.cat([v, k, q]))
        assert is_inherited == (initialisation is not Initialisation.scratch)


def test_random_projections_follow_the_law_of_a_fresh_layer() -> None:
    weights = seeded(Initialisation.scratch)
    bounds = {
        "vkq_proj.weight": 1 / math.sqrt(48),
        "in_proj.weight": 1 / math.sqrt(48),
        "conv1d.weight": 1 / math.sqrt(2),
        "conv1d.bias": 1 / math.sqrt(2),
        "g_proj.weight": 2**-2.5 * math.sqrt(6 / (48 + 48)),
    }
    for name, bound in bounds.items():
        assert 0.95 * bound < weights[name].abs().max() <= bound
        assert abs(float(weights[name].mean())) < 0.15 * bound


def test_the_gate_is_the_same_for_every_initialisation() -> None:
    gates = [seeded(initialisation)["g_proj.weight"] for initialisation in Initialisation]
    assert all(gate.equal(gates[0]) for gate in gates)
    assert not seeded(Initialisation.mimic, number=1)["g_proj.weight"].equal(gates[0])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (Mamba2Options(conv_kernel=None), {"conv1d.weight": False, "D": False}),
        (Mamba2Options(skip=True), {"conv1d.weight": True, "D": True}),
        (Mamba2Options(skip=True, timescales=2), {"conv1d.weight": True, "D": True}),
    ],
)
@pytest.mark.parametrize("initialisation", Initialisation)
def test_a_seed_has_the_tensors_of_its_variant(
    initialisation: Initialisation, options: Mamba2Options, names: dict[str, bool]
) -> None:
    weights = seeded(initialisation, options)
    assert {name: name in weights for name in names} == names
    mixer = Mamba2(SHAPE, options=options)
    mixer.load_state_dict(weights | {"o_proj.weight": attention_of().wo.weight})


def test_a_gate_that_starts_at_one() -> None:
    options = Mamba2Options(gate_at_one=True)
    mixer = Mamba2(SHAPE, options=options)
    mixer.load_state_dict(seeded(Initialisation.mimic, options) | {"o_proj.weight": attention_of().wo.weight})
    # large: the eps of the norm is nothing beside it
    u = 100 * torch.randn(1, 5, SHAPE.hidden_size, generator=torch.Generator().manual_seed(3))
    # what passes is the norm alone: every head has mean square one
    torch.testing.assert_close(mixer.head_outputs(u).square().mean(dim=-1), torch.ones(1, 6, 5), rtol=1e-4, atol=0)


@given(
    num_kv_heads=st.integers(1, 3),
    heads_per_group=st.integers(1, 3),
    variant=st.sampled_from(list(product(Initialisation, (None, 1, 2, 4)))),
    qkv_bias=st.booleans(),
)
def test_no_tensor_shares_memory_with_the_attention(
    num_kv_heads: int, heads_per_group: int, variant: tuple[Initialisation, int | None], qkv_bias: bool
) -> None:
    num_heads = num_kv_heads * heads_per_group
    shape = MixerShape(hidden_size=8, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=2)
    attention = attention_of(shape, qkv_bias=qkv_bias)
    before = {name: tensor.clone() for name, tensor in attention.state_dict().items()}
    initialisation, conv_kernel = variant
    weights = seeded(initialisation, Mamba2Options(conv_kernel=conv_kernel), attention=attention)
    pointers = [tensor.untyped_storage().data_ptr() for tensor in (*weights.values(), *before.values())]
    assert len(set(pointers)) == len(pointers)
    for tensor in weights.values():
        tensor.fill_(7.0)
    assert all(attention.state_dict()[name].equal(tensor) for name, tensor in before.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_seed_means_the_same_weights_in_every_precision(dtype: torch.dtype) -> None:
    wide, other = (seeded(Initialisation.mimic, attention=attention_of().to(d)) for d in (torch.float32, dtype))
    assert all(tensor.dtype == dtype for tensor in other.values())
    torch.testing.assert_close(other["g_proj.weight"].float(), wide["g_proj.weight"], rtol=1e-2, atol=0)
    torch.testing.assert_close(other["dt_bias"].float(), wide["dt_bias"], rtol=1e-2, atol=0)
