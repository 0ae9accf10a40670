"""The Mamba-2 mixer is what its definition says, in every variant; its state has one size and one precision."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from lab.core.errors import BackendError, ConfigError
from lab.core.mixers.base import AttentionTraits, MixerShape
from lab.core.mixers.gated import NORM_EPS
from lab.core.mixers.mamba2 import Mamba2, Mamba2Kernels, Mamba2Options
from lab.core.mixers.rotary import Rotary, RotaryConfig, RotaryKind
from lab.core.models.decoder import draw_weights

SHAPE = MixerShape(hidden_size=24, num_heads=4, num_kv_heads=2, head_dim=8)
RELEASED = MixerShape(hidden_size=2048, num_heads=16, num_kv_heads=8, head_dim=128)
BATCH, LENGTH = 2, 11
VARIANTS = {
    "as released": Mamba2Options(),
    "no convolution": Mamba2Options(conv_kernel=None),
    "one tap": Mamba2Options(conv_kernel=1),
    "four taps": Mamba2Options(conv_kernel=4),
    "rotary": Mamba2Options(rotary=True),
    "gate at one": Mamba2Options(gate_at_one=True),
    "skip": Mamba2Options(skip=True),
    "gate first": Mamba2Options(norm_before_gate=False, norm_eps=1e-2),
    "gate at one first": Mamba2Options(norm_before_gate=False, gate_at_one=True),
    "no bias, the norm of the layer": Mamba2Options(conv_bias=False, norm_eps=None),
    "all": Mamba2Options(conv_kernel=3, rotary=True, gate_at_one=True, skip=True),
    "two timescales": Mamba2Options(timescales=2),
    "two timescales, gate first": Mamba2Options(timescales=2, norm_before_gate=False, skip=True, rotary=True),
}
ROTARY = RotaryConfig(theta=100.0, max_length=6, kind=RotaryKind.dynamic, factor=2.0)
# of the norm in front of the layer
LAYER_EPS = 1e-3
TOLERANCE = 1e-12  # float64 throughout

variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def made(options: Mamba2Options | None = None, *, qkv_bias: bool = False, dtype: torch.dtype = torch.float64) -> Mamba2:
    traits = AttentionTraits(rotary=Rotary(ROTARY, head_dim=8), qkv_bias=qkv_bias, norm_eps=LAYER_EPS)
    mixer = Mamba2(SHAPE, options=options, traits=traits).to(dtype)
    draw_weights(mixer, generator=torch.Generator().manual_seed(0), std=0.4)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(len(name)))
    return mixer.requires_grad_(False)


def drawn(length: int = LENGTH, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, length, SHAPE.hidden_size, dtype=torch.float64, generator=generator).to(dtype)


def turned(x: Tensor, t: int) -> Tensor:
    """A head of token t, turned by the angles of a sequence of LENGTH tokens."""
    stretch = ROTARY.factor * LENGTH / ROTARY.max_length - (ROTARY.factor - 1)
    theta = ROTARY.theta * stretch ** (8 / 6)
    angles = t * theta ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    numbers = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([numbers.real, numbers.imag], dim=-1)


def defined(mixer: Mamba2, u: Tensor) -> Tensor:
    """Heads by the formulas of the paper's section 4, one token and one head after the other."""
    options, weights = mixer.options, dict(mixer.named_parameters())
    vkq = u @ weights["vkq_proj.weight"].T + weights.get("vkq_proj.bias", torch.zeros(()))
    tokens: list[Tensor] = []
    states = [u.new_zeros(BATCH, SHAPE.head_dim, SHAPE.head_dim)] * (options.timescales * SHAPE.num_heads)
    for t in range(u.shape[1]):
        token = vkq[:, t]
        if options.conv_kernel is not None:
            taps = weights["conv1d.weight"][:, 0]
            reach = [(w, t - (options.conv_kernel - 1) + w) for w in range(options.conv_kernel)]
            token = sum(taps[:, w] * vkq[:, s] for w, s in reach if s >= 0) + weights.get(
                "conv1d.bias", torch.zeros(())
            )
        v, k, q = silu(token).split([16, 16, 32], dim=1)
        step_size = softplus(u[:, t] @ weights["in_proj.weight"].T + weights["dt_bias"])
        gate = u[:, t] @ weights["g_proj.weight"].T
        gate = 2 / (1 + torch.exp(-gate)) if options.gate_at_one else gate / (1 + torch.exp(-gate))
        outputs = []
        for h in range(SHAPE.num_heads):
            g, own = h // 2, slice(8 * h, 8 * h + 8)
            value, key, query = v[:, 8 * g : 8 * g + 8], k[:, 8 * g : 8 * g + 8], q[:, own]
            if options.rotary:
                key, query = turned(key, t), turned(query, t)
            of_head = []
            for e in range(options.timescales * h, options.timescales * (h + 1)):
                decay = torch.exp(-step_size[:, e] * weights["A_log"][e].exp())
                written = step_size[:, e, None, None] * value[:, :, None] * key[:, None, :]
                states[e] = decay[:, None, None] * states[e] + written
                of_head.append((states[e] @ query[:, :, None])[:, :, 0])
                if options.skip:
                    of_head[-1] = of_head[-1] + weights["D"][e] * value
            eps = LAYER_EPS if options.norm_eps is None else options.norm_eps
            width = 8 * options.timescales
            y, gates = torch.cat(of_head, dim=1), gate[:, width * h : width * (h + 1)]
            y = y if options.norm_before_gate else y * gates
            normed = y / (y.square().mean(dim=1, keepdim=True) + eps).sqrt() * weights["g_norm.weight"]
            normed = normed * gates if options.norm_before_gate else normed
            outputs.append(sum(normed.split(8, dim=1)) / options.timescales)
        tokens.append(torch.stack(outputs, dim=1))
    return torch.stack(tokens, dim=2)


def decoded(mixer: Mamba2, u: Tensor, prompt: int) -> Tensor:
    state = mixer.allocate_state(u.shape[0], max_length=u.shape[1])
    outputs = [mixer.prefill(u[:, :prompt], state)] if prompt else []
    outputs += [mixer.step(u[:, t : t + 1], state) for t in range(prompt, u.shape[1])]
    assert state.length == u.shape[1]
    return torch.cat(outputs, dim=1)


@variants
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_heads_are_those_of_the_definition(options: Mamba2Options, qkv_bias: bool) -> None:
    mixer, u = made(options, qkv_bias=qkv_bias), drawn()
    torch.testing.assert_close(mixer.head_outputs(u), defined(mixer, u), rtol=TOLERANCE, atol=TOLERANCE)


@variants
@pytest.mark.parametrize("prompt", [0, 1, 5, LENGTH])
def test_decoding_equals_the_whole_sequence(options: Mamba2Options, prompt: int) -> None:
    mixer, u = made(options, qkv_bias=True), drawn()
    torch.testing.assert_close(decoded(mixer, u, prompt), mixer(u), rtol=TOLERANCE, atol=TOLERANCE)


@variants
def test_gradients_are_those_of_the_definition(options: Mamba2Options) -> None:
    mixer, u = made(options).requires_grad_(), drawn(LENGTH if options.rotary else 5)
    names, parameters = zip(
        *((name, p) for name, p in mixer.named_parameters() if name != "o_proj.weight"), strict=True
    )
    direction = torch.randn(mixer.head_outputs(u).shape, dtype=u.dtype, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((mixer.head_outputs(u) * direction).sum(), parameters)
    expected = torch.autograd.grad((defined(mixer, u) * direction).sum(), parameters)
    for name, ours, theirs in zip(names, found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=name)


def test_with_unit_steps_and_no_decay_it_is_attention_without_softmax() -> None:
    mixer, u = made(Mamba2Options(conv_kernel=None, gate_at_one=True)), drawn(257)
    mixer.in_proj.weight.zero_()
    mixer.g_proj.weight.zero_()
    mixer.g_norm.weight.fill_(1.0)
    mixer.dt_bias.fill_(math.log(math.e - 1))
    mixer.A_log.fill_(-40.0)
    v, k, q = (
        part.view(BATCH, 257, -1, 8).transpose(1, 2) for part in silu(mixer.vkq_proj(u)).split([16, 16, 32], dim=2)
    )
    k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
    summed = (q @ k.mT).tril() @ v
    expected = torch.nn.functional.rms_norm(summed, (8,), eps=NORM_EPS)
    torch.testing.assert_close(mixer.head_outputs(u), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_state_has_one_size_whatever_it_has_seen() -> None:
    mixer, u = made(), drawn()
    state = mixer.allocate_state(BATCH, max_length=LENGTH)
    memory = [(tensor.data_ptr(), tensor.shape) for tensor in state.tensors()]
    assert mixer.allocate_state(BATCH, max_length=10**9).num_bytes == state.num_bytes
    mixer.prefill(u, state)
    for _ in range(5):
        mixer.step(u[:, :1], state)
    # further than it was allocated for
    assert state.length == LENGTH + 5
    assert [(tensor.data_ptr(), tensor.shape) for tensor in state.tensors()] == memory


def test_the_state_of_a_released_layer() -> None:
    with torch.device("meta"):
        mixer = Mamba2(RELEASED)
    state = mixer.to(torch.bfloat16).allocate_state(1, max_length=1)
    assert state.num_bytes == 1_056_768


def test_a_released_layer_has_4_239_520_parameters_more_than_attention() -> None:
    with torch.device("meta"):
        mixer = Mamba2(RELEASED)
    inherited = mixer.vkq_proj.weight.numel() + mixer.o_proj.weight.numel()
    assert sum(parameter.numel() for parameter in mixer.parameters()) - inherited == 4_239_520


def test_single_precision_decoding_stays_close_to_the_whole_sequence() -> None:
    mixer, u = made(dtype=torch.float32), drawn(300, torch.float32)
    whole = mixer(u)
    assert (decoded(mixer, u, 100) - whole).norm() < 1e-5 * whole.norm()


def test_every_implementation_gives_the_same() -> None:
    mixer, u = made(), drawn()
    expected = mixer(u)
    mixer.options.kernels = Mamba2Kernels(**dict.fromkeys(mixer.backends, "reference"))
    names = mixer.choose_backends()
    assert names == dict.fromkeys(["ssd", "ssd_step", "causal_conv", "causal_conv_step"], "reference")
    torch.testing.assert_close(mixer(u), expected, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(decoded(mixer, u, 4), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_what_is_chosen_automatically_is_settled_and_named() -> None:
    mixer = made()
    names = mixer.choose_backends()
    assert "auto" not in names.values()
    assert "reference" not in names.values()
    assert {name: backend.name for name, backend in mixer.backends.items()} == names  # type: ignore[union-attr]


def test_an_implementation_that_cannot_run_is_refused() -> None:
    with pytest.raises(BackendError, match="ssd backend='mamba_ssm' cannot run on cpu"):
        made(Mamba2Options(kernels=Mamba2Kernels(ssd="mamba_ssm"))).choose_backends()


def test_mixed_precision_keeps_the_dtype_of_autocast() -> None:
    mixer, u = made(dtype=torch.float32), drawn(dtype=torch.float32)
    expected = mixer.head_outputs(u)
    with torch.autocast("cpu", torch.bfloat16):
        head_outputs = mixer.head_outputs(u)
    assert head_outputs.dtype == torch.bfloat16
    assert (head_outputs.float() - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Mamba2Options(conv_kernel=0),
            "conv_kernel=0 must be 1 or more and at most 1024; null leaves the convolution out",
        ),
        (lambda: Mamba2(SHAPE, options=Mamba2Options(rotary=True)), "the attention has no rotary embedding to keep"),
        (lambda: Mamba2Options(timescales=3), "timescales=3 must be 1 or more and at most 2; a head has one state, or"),
    ],
)
def test_impossible_variants_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_gate_first_gives_a_head_the_same_direction() -> None:
    u, first = drawn(), Mamba2Options(norm_before_gate=False)
    one, other = (made(options).head_outputs(u) for options in (Mamba2Options(), first))
    cosines = torch.nn.functional.cosine_similarity(one, other, dim=-1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(one, other)


def test_an_epsilon_of_the_teacher_needs_a_teacher_with_one() -> None:
    with pytest.raises(ConfigError, match="norm_eps=null but the attention stands behind no known norm"):
        Mamba2(SHAPE, options=Mamba2Options(norm_eps=None))
    with pytest.raises(ConfigError, match=r"norm_eps=-1.*null takes the teacher's"):
        Mamba2Options(norm_eps=-1.0)
