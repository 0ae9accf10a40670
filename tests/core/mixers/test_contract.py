"""What every mixer in the folder must do, whatever it is."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lab.core.errors import InputError
from lab.core.mixers.base import AttentionTraits, Mixer, MixerShape
from lab.core.mixers.rotary import Rotary, RotaryConfig
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.mixers.spec import mixers
from lab.core.models.decoder import draw_weights
from lab.core.operators.packing import Packing

KINDS = [SoftmaxAttention.kind, *sorted(mixers())]
SHAPES = {
    "grouped": MixerShape(hidden_size=24, num_heads=4, num_kv_heads=2, head_dim=8),
    "one key head": MixerShape(hidden_size=16, num_heads=3, num_kv_heads=1, head_dim=4),
    "wide heads": MixerShape(hidden_size=8, num_heads=2, num_kv_heads=2, head_dim=16),
}
BATCH, LENGTH = 2, 13
TOLERANCE = 1e-12  # float64 throughout


def made(kind: str, shape: MixerShape, dtype: torch.dtype = torch.float64) -> Mixer:
    is_softmax = kind == SoftmaxAttention.kind
    spec = None if is_softmax else mixers()[kind]
    mixer = SoftmaxAttention(shape) if spec is None else spec.build(shape, spec.options(), AttentionTraits())
    draw_weights(mixer, generator=torch.Generator().manual_seed(0), std=0.3)
    return mixer.to(dtype)


def drawn(shape: MixerShape, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, length, shape.hidden_size, dtype=torch.float64, generator=generator)


def decoded(mixer: Mixer, u: Tensor, pieces: list[int]) -> Tensor:
    """Outputs of pieces of these lengths, then single steps."""
    state = mixer.allocate_state(u.shape[0], max_length=u.shape[1])
    outputs = []
    for length in pieces:
        outputs.append(mixer.prefill(u[:, state.length : state.length + length], state))
    while state.length < u.shape[1]:
        outputs.append(mixer.step(u[:, state.length : state.length + 1], state))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_output_is_the_projection_of_the_heads(kind: str, shape: MixerShape) -> None:
    mixer, u = made(kind, shape), drawn(shape)
    head_outputs = mixer.head_outputs(u)
    assert head_outputs.shape == (BATCH, shape.num_heads, LENGTH, shape.head_dim)
    assert mixer(u).shape == u.shape
    torch.testing.assert_close(mixer.output(head_outputs), mixer(u), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_padding_on_the_right_changes_nothing_before_it(kind: str, shape: MixerShape) -> None:
    mixer, u = made(kind, shape), drawn(shape)
    padded = torch.cat([u, 100 * torch.ones_like(u[:, :5])], dim=1)
    torch.testing.assert_close(mixer(padded)[:, :LENGTH], mixer(u), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_comes_from_the_future(kind: str) -> None:
    mixer, u = made(kind, SHAPES["grouped"]), drawn(SHAPES["grouped"]).requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(u)[:, 6].sum(), u)
    assert gradient[:, :7].abs().amax(dim=2).min() > 0
    assert gradient[:, 7:].abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_packed_sequences_do_not_meet(kind: str, lengths: list[int]) -> None:
    shape = SHAPES["grouped"]
    rotary = Rotary(RotaryConfig(theta=100.0, max_length=64), head_dim=shape.head_dim)
    spec = mixers().get(kind)
    if spec is None:
        mixer: Mixer = SoftmaxAttention(shape, rotary=rotary, window=7)
    else:
        options = replace(spec.options(), rotary=True) if hasattr(spec.options, "rotary") else spec.options()
        mixer = spec.build(shape, options, AttentionTraits(rotary=rotary))
    draw_weights(mixer, generator=torch.Generator().manual_seed(0), std=0.3)
    mixer.double()
    u = drawn(shape, sum(lengths))[:1].requires_grad_()
    weights = torch.linspace(-1, 1, u.numel(), dtype=u.dtype).view(u.shape)
    packing = Packing.of(lengths, u.device)
    packed = mixer(u, packing)
    alone = torch.cat([mixer(u[:, tokens]) for tokens in packing.slices()], dim=1)
    torch.testing.assert_close(packed, alone, rtol=TOLERANCE, atol=TOLERANCE)
    # what a mixer has that does not override it
    one_by_one = mixer.output(Mixer.packed_head_outputs(mixer, u, packing))
    torch.testing.assert_close(one_by_one, alone, rtol=TOLERANCE, atol=TOLERANCE)
    trained = [u, *mixer.parameters()]
    found, expected = (torch.autograd.grad((y * weights).sum(), trained, allow_unused=True) for y in (packed, alone))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_do_not_meet(kind: str) -> None:
    mixer, u = made(kind, SHAPES["grouped"]), drawn(SHAPES["grouped"])
    alone = torch.cat([mixer(row[None]) for row in u])
    torch.testing.assert_close(mixer(u), alone, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@settings(max_examples=30)
@given(pieces=st.lists(st.integers(1, 6), max_size=4).filter(lambda pieces: sum(pieces) <= LENGTH))
def test_prefill_in_pieces_and_steps_equal_the_whole(kind: str, shape: MixerShape, pieces: list[int]) -> None:
    mixer, u = made(kind, shape), drawn(shape)
    torch.testing.assert_close(decoded(mixer, u, pieces), mixer(u), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_state_is_known_without_memory(kind: str) -> None:
    mixer = made(kind, SHAPES["grouped"])
    state = mixer.allocate_state(BATCH, max_length=LENGTH)
    assert state.num_bytes == sum(tensor.nbytes for tensor in state.tensors()) > 0
    assert mixer.to("meta").allocate_state(BATCH, max_length=LENGTH).num_bytes == state.num_bytes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_outputs_have_the_dtype_of_inputs(kind: str, dtype: torch.dtype) -> None:
    shape = SHAPES["grouped"]
    mixer, u = made(kind, shape, dtype), drawn(shape).to(dtype)
    assert mixer(u).dtype == dtype
    assert decoded(mixer, u, [5]).dtype == dtype
    expected = made(kind, shape)(drawn(shape))
    # eight bits through a chain of products; 0.6 to 0.9 % were measured
    tolerance = {torch.bfloat16: 0.02, torch.float32: 1e-5}[dtype]
    assert (mixer(u).double() - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("kind", sorted(mixers()))
def test_a_state_decays_in_bfloat16_as_its_weights_say(kind: str) -> None:
    shape = SHAPES["grouped"]
    narrow = made(kind, shape, torch.bfloat16)
    # the same weights, already rounded: what is left is how the decay is computed
    exact = made(kind, shape)
    exact.load_state_dict({name: tensor.double() for name, tensor in narrow.state_dict().items()})
    found = []
    for mixer, dtype in ((narrow, torch.bfloat16), (exact, torch.float64)):
        state = mixer.allocate_state(1, max_length=64)
        recurrent = state.tensors()[-1]
        recurrent.fill_(1.0)
        # nothing is written: values and keys of a zero input are zero
        mixer.prefill(torch.zeros(1, 64, shape.hidden_size, dtype=dtype), state)
        found.append(recurrent.double())
    assert 0 < found[1].min() < 0.5, "it decays, and not to nothing"
    # a rate that is rounded to 8 bits is up to 0.4 % off, and 64 steps of it many times that
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    shape = SHAPES["one key head"]
    mixer, u = made(kind, shape), drawn(shape, length=4)[:1].requires_grad_()
    assert torch.autograd.gradcheck(mixer, (u,))


def test_heads_that_do_not_divide_into_groups_are_refused() -> None:
    with pytest.raises(InputError, match="num_heads=4 is not a multiple of num_kv_heads=3"):
        MixerShape(hidden_size=8, num_heads=4, num_kv_heads=3, head_dim=2)
