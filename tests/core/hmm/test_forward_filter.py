"""The compiled forward recursion against the one in torch, at sizes on both sides of its tiles, panels and blocks."""

import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.core.hmm import forward_filter
from lab.core.hmm.random_models import dirichlet_tables
from lab.core.native import build

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler")
# rounding of the dtype, which a chain of sixty tokens forgets again
TOLERANCES = {torch.float64: 1e-14, torch.float32: 1e-5}


def tables(num_states, vocabulary, dtype, *, seed=0):
    rng = np.random.default_rng(seed)
    found = dirichlet_tables(num_states, vocabulary, rng, transition_concentration=0.5, emission_concentration=0.5)
    return [torch.as_tensor(table).to(dtype) for table in found]


def random_tokens(vocabulary, num_tokens, num_sequences):
    return torch.from_numpy(np.random.default_rng(1).integers(vocabulary, size=(num_tokens, num_sequences)))


def in_torch(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward_filter, "_compiled", lambda dtype: None)
        return forward_filter.forward(*arguments)


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("num_sequences", [1, 7, 64, 65, 200])
@pytest.mark.parametrize(
    ("num_states", "vocabulary", "num_tokens"), [(1, 1, 1), (3, 5, 60), (16, 16, 2), (33, 40, 20), (70, 17, 5)]
)
def test_compiled_and_torch_agree(num_states, vocabulary, num_tokens, num_sequences, dtype):
    model = tables(num_states, vocabulary, dtype)
    tokens = random_tokens(vocabulary, num_tokens, num_sequences)
    found = forward_filter.forward(*model, tokens)
    expected = in_torch(*model, tokens)
    assert found.posterior.dtype == found.masses.dtype == dtype
    assert found.posterior.shape == (num_sequences, num_states)
    torch.testing.assert_close(found.posterior, expected.posterior, rtol=0, atol=TOLERANCES[dtype])
    torch.testing.assert_close(found.masses, expected.masses, rtol=TOLERANCES[dtype] * 10, atol=0)


@needs_compiler
def test_a_sequence_does_not_depend_on_the_others_nor_on_the_threads():
    model = tables(20, 30, torch.float32)
    tokens = random_tokens(30, 40, 300)
    together = forward_filter.forward(*model, tokens).posterior
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forward_filter, "_MIN_WORK_PER_THREAD", 1)
            threaded = forward_filter.forward(*model, tokens).posterior
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(threaded, together)
    for sequence in (0, 63, 64, 299):
        alone = forward_filter.forward(*model, tokens[:, sequence : sequence + 1])
        assert torch.equal(alone.posterior[0], together[sequence])


@pytest.mark.parametrize("run", [forward_filter.forward, in_torch])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_tokens_of_tiny_probability_are_not_lost(run, dtype):
    # the smallest number there is: its inverse is not finite
    tiny = torch.tensor(0.0, dtype=dtype).nextafter(torch.tensor(1.0, dtype=dtype)).item()
    emission = torch.tensor([[1.0, tiny], [1.0, 3 * tiny]], dtype=dtype)
    halves = torch.full((2, 2), 0.5, dtype=dtype)
    tokens = torch.tensor([[1, 0], [1, 1], [0, 1]])
    for length, expected in ((1, [0.0, 1.0]), (3, [0.5, 0.5])):
        found = run(torch.tensor([0.0, 1.0], dtype=dtype), halves, emission, tokens[:length])
        assert found.masses[0, 0].item() == 3 * tiny
        assert (found.masses > 0).all()
        assert found.posterior.isfinite().all()
        torch.testing.assert_close(found.posterior[0], torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("run", [forward_filter.forward, in_torch])
def test_what_follows_an_impossible_token_is_nan_and_other_sequences_are_unharmed(run):
    emission = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    halves = torch.full((2, 2), 0.5)
    found = run(halves[0], halves, emission, torch.tensor([[0, 0], [1, 0], [0, 0]]))
    assert found.masses[1, 0].item() == 0
    assert found.masses[2, 0].isnan()
    assert found.masses[:, 1].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of the processors are those of x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_registers_of_every_width_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_THIS_PROCESSOR", (f"-march={processor}",))
    built = build.load_native.__wrapped__("hmm_filter.cpp")
    assert built.why_not is None
    monkeypatch.setattr(forward_filter, "load_native", lambda source: built)
    monkeypatch.setattr(forward_filter, "_compiled", forward_filter._compiled.__wrapped__)
    for dtype, tolerance in TOLERANCES.items():
        model, tokens = tables(21, 19, dtype), random_tokens(19, 30, 77)
        found = forward_filter.forward(*model, tokens).posterior
        expected = in_torch(*model, tokens).posterior
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
