"""The Gated DeltaNet mixer is what its definition says, and what it starts from."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from lab.core.errors import BackendError
from lab.core.mixers.base import AttentionTraits, MixerShape
from lab.core.mixers.gated import NORM_EPS
from lab.core.mixers.gated_deltanet import (
    LENGTH_EPS,
    SPEC,
    GatedDeltaNet,
    GatedDeltaNetKernels,
    GatedDeltaNetOptions,
)
from lab.core.mixers.initialisation import Initialisation
from lab.core.mixers.rotary import Rotary, RotaryConfig
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import draw_weights

SHAPE = MixerShape(hidden_size=24, num_heads=4, num_kv_heads=2, head_dim=8)
BATCH, LENGTH = 2, 11
TOLERANCE = 1e-12  # float64 throughout
ROTARY = Rotary(RotaryConfig(theta=100.0, max_length=64), head_dim=8)
VARIANTS = {
    "defaults": (GatedDeltaNetOptions(), AttentionTraits()),
    "no convolution": (GatedDeltaNetOptions(conv_kernel=None), AttentionTraits()),
    "four taps, biases": (GatedDeltaNetOptions(conv_kernel=4), AttentionTraits(qkv_bias=True, output_bias=True)),
    "QK-norm": (GatedDeltaNetOptions(), AttentionTraits(qk_norm_eps=1e-6)),
    "no QK-norm, no bias, the norm of the layer": (
        GatedDeltaNetOptions(qk_norm=False, conv_bias=False, norm_eps=None),
        AttentionTraits(qk_norm_eps=1e-6, norm_eps=1e-3),
    ),
}
variants = pytest.mark.parametrize(("options", "traits"), VARIANTS.values(), ids=VARIANTS)


def made(options: GatedDeltaNetOptions | None = None, traits: AttentionTraits | None = None) -> GatedDeltaNet:
    mixer = GatedDeltaNet(SHAPE, options=options, traits=traits).double()
    draw_weights(mixer, generator=torch.Generator().manual_seed(0), std=0.4)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(len(name)))
    return mixer.requires_grad_(False)


def drawn(length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, length, SHAPE.hidden_size, dtype=torch.float64, generator=generator)


def rms(x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt()


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=-1, keepdim=True) + LENGTH_EPS).sqrt()


def defined(mixer: GatedDeltaNet, u: Tensor) -> Tensor:
    """Heads by the formulas of the docstring, one token and one head after the other."""
    options, weights = mixer.options, dict(mixer.named_parameters())
    vkq = u @ weights["vkq_proj.weight"].T + weights.get("vkq_proj.bias", torch.zeros(()))
    states = [u.new_zeros(BATCH, SHAPE.head_dim, SHAPE.head_dim)] * SHAPE.num_heads
    tokens: list[Tensor] = []
    for t in range(u.shape[1]):
        token = vkq[:, t]
        if options.conv_kernel is not None:
            taps = weights["conv1d.weight"][:, 0]
            reach = [(w, t - (options.conv_kernel - 1) + w) for w in range(options.conv_kernel)]
            token = sum(taps[:, w] * vkq[:, s] for w, s in reach if s >= 0) + weights.get(
                "conv1d.bias", torch.zeros(())
            )
        v, k, q = silu(token).split([16, 16, 32], dim=1)
        decay = (-weights["A_log"].exp() * softplus(u[:, t] @ weights["a_proj.weight"].T + weights["dt_bias"])).exp()
        strength = torch.sigmoid(u[:, t] @ weights["b_proj.weight"].T)
        gate = silu(u[:, t] @ weights["g_proj.weight"].T)
        outputs = []
        for h in range(SHAPE.num_heads):
            g, own = h // 2, slice(8 * h, 8 * h + 8)
            value, key, query = v[:, 8 * g : 8 * g + 8], k[:, 8 * g : 8 * g + 8], q[:, own]
            if "q_norm.weight" in weights:
                query = rms(query, 1e-6) * weights["q_norm.weight"]
                key = rms(key, 1e-6) * weights["k_norm.weight"]
            key, query, b = unit(key), unit(query), strength[:, h, None, None]
            erased = torch.eye(8, dtype=u.dtype) - b * key[:, :, None] * key[:, None, :]
            states[h] = decay[:, h, None, None] * states[h] @ erased + b * value[:, :, None] * key[:, None, :]
            y = (states[h] @ query[:, :, None])[:, :, 0] / math.sqrt(8)
            outputs.append(
                rms(y, 1e-3 if options.norm_eps is None else NORM_EPS) * weights["g_norm.weight"] * gate[:, own]
            )
        tokens.append(torch.stack(outputs, dim=1))
    return torch.stack(tokens, dim=2)


@variants
def test_heads_are_those_of_the_definition(options: GatedDeltaNetOptions, traits: AttentionTraits) -> None:
    mixer, u = made(options, traits), drawn()
    torch.testing.assert_close(mixer.head_outputs(u), defined(mixer, u), rtol=TOLERANCE, atol=TOLERANCE)


@variants
def test_decoding_equals_the_whole_sequence(options: GatedDeltaNetOptions, traits: AttentionTraits) -> None:
    mixer, u = made(options, traits), drawn()
    state = mixer.allocate_state(BATCH, max_length=LENGTH)
    pieces = [mixer.prefill(u[:, :4], state), *(mixer.step(u[:, t : t + 1], state) for t in range(4, LENGTH))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), mixer(u), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_rotary_embedding_is_kept_where_it_is_asked_for() -> None:
    options, traits = GatedDeltaNetOptions(rotary=True), AttentionTraits(rotary=ROTARY)
    mixer, u = made(options, traits), drawn()
    assert (mixer.head_outputs(u) - made(GatedDeltaNetOptions(), traits).head_outputs(u)).abs().max() > 1e-3
    state = mixer.allocate_state(BATCH, max_length=LENGTH)
    pieces = torch.cat([mixer.step(u[:, t : t + 1], state) for t in range(LENGTH)], dim=1)
    torch.testing.assert_close(pieces, mixer(u), rtol=TOLERANCE, atol=TOLERANCE)


@variants
def test_gradients_are_those_of_the_definition(options: GatedDeltaNetOptions, traits: AttentionTraits) -> None:
    mixer, u = made(options, traits).requires_grad_(), drawn(5)
    named = [(name, p) for name, p in mixer.named_parameters() if not name.startswith("o_proj")]
    names, parameters = zip(*named, strict=True)
    direction = torch.randn(mixer.head_outputs(u).shape, dtype=u.dtype, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((mixer.head_outputs(u) * direction).sum(), parameters)
    expected = torch.autograd.grad((defined(mixer, u) * direction).sum(), parameters)
    for name, ours, theirs in zip(names, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=name)


def test_a_memory_that_neither_forgets_nor_shares_keys_recalls_what_was_written() -> None:
    mixer = made(GatedDeltaNetOptions(conv_kernel=None))
    for name in ("a_proj", "b_proj"):
        getattr(mixer, name).weight.zero_()
    mixer.A_log.fill_(-40.0)
    # full strength
    mixer.b_proj.weight[:, 0] = 100.0
    u = drawn(1)
    u[:, :, 0] = 1.0
    twice = torch.cat([u, u], dim=1)
    # a value that is written again under the same key changes nothing
    torch.testing.assert_close(
        mixer.head_outputs(twice)[:, :, 1], mixer.head_outputs(twice)[:, :, 0], rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("initialisation", Initialisation)
def test_a_mimicking_layer_has_long_memory_and_half_strength_whatever_the_token(initialisation: Initialisation) -> None:
    attention = SoftmaxAttention(SHAPE, qkv_bias=True)
    draw_weights(attention, generator=torch.Generator().manual_seed(0), std=0.3)
    weights = SPEC.initial_weights(
        attention.state_dict(), SHAPE, GatedDeltaNetOptions(), initialisation, torch.Generator().manual_seed(1)
    )
    mixer = GatedDeltaNet(SHAPE, traits=attention.traits)
    mixer.load_state_dict(weights | {"o_proj.weight": attention.wo.weight})
    decay = torch.exp(-weights["A_log"].exp() * softplus(weights["dt_bias"]))
    is_mimic = initialisation is Initialisation.mimic
    assert not is_mimic or decay.min() > 0.76
    assert weights["a_proj.weight"].any() != is_mimic
    assert weights["b_proj.weight"].any() != is_mimic
    q, k, v = attention.wqkv.weight.view(2, 4, 8, 24).split([2, 1, 1], dim=1)
    inherited = torch.cat([part.flatten(0, 2) for part in (v, k, q)])
    assert weights["vkq_proj.weight"].equal(inherited) == (initialisation is not Initialisation.scratch)


def test_every_implementation_gives_the_same_and_one_that_cannot_run_is_refused() -> None:
    mixer, u = made(), drawn()
    expected = mixer(u)
    mixer.options.kernels = GatedDeltaNetKernels(**dict.fromkeys(mixer.backends, "reference"))
    assert set(mixer.choose_backends().values()) == {"reference"}
    torch.testing.assert_close(mixer(u), expected, rtol=TOLERANCE, atol=TOLERANCE)
    mixer.options.kernels = GatedDeltaNetKernels(delta_rule="fla")
    with pytest.raises(BackendError, match="delta_rule backend='fla' cannot run on cpu: it needs a CUDA device"):
        mixer.choose_backends()


@pytest.mark.parametrize("initialisation", Initialisation)
def test_what_an_option_leaves_out_is_not_initialised_either(initialisation: Initialisation) -> None:
    attention = SoftmaxAttention(SHAPE, qk_norm_eps=1e-6).double()
    options = GatedDeltaNetOptions(conv_bias=False, qk_norm=False)
    mixer = GatedDeltaNet(SHAPE, options=options, traits=attention.traits)
    weights = SPEC.initial_weights(attention.state_dict(), SHAPE, options, initialisation, torch.Generator())
    assert weights.keys() == mixer.state_dict().keys() - {"o_proj.weight"}
    assert not {"conv1d.bias", "q_norm.weight", "k_norm.weight"} & weights.keys()
