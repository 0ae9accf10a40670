"""The discrete HMM against a sum over all paths of hidden states, and over thousands of tokens against a scan."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.errors import InputError
from lab.core.hmm import forward_filter
from lab.core.hmm.discrete import DiscreteHmm
from lab.core.hmm.random_models import dirichlet_tables
from reference.scan import filter_by_scan


def dirichlet_hmm(num_states, num_tokens, *, seed=0, concentration=0.5, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    tables = dirichlet_tables(
        num_states, num_tokens, rng, transition_concentration=concentration, emission_concentration=concentration
    )
    return DiscreteHmm.from_tables(tables, dtype=dtype)


def table(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def all_sequences(num_tokens, length):
    return torch.tensor(list(itertools.product(range(num_tokens), repeat=length)))


def enumerated(hmm, tokens):
    """p(h_1 .. h_T, x_1 .. x_T) for every path, by the definition, in Python floats."""
    initial, transition, emission = hmm.initial.tolist(), hmm.transition.tolist(), hmm.emission.tolist()
    joint = {}
    for path in itertools.product(range(hmm.num_states), repeat=len(tokens)):
        factors = [initial[path[0]]]
        factors += [transition[now][following] for now, following in itertools.pairwise(path)]
        factors += [emission[state][token] for state, token in zip(path, tokens, strict=True)]
        joint[path] = math.prod(factors)
    return joint


def marginal(joint, position, num_states):
    law = np.zeros(num_states)
    for path, mass in joint.items():
        law[path[position]] += mass
    return law / law.sum()


def in_torch(run):
    """The same on a machine without a compiler."""

    def filtered(hmm, tokens):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forward_filter, "_compiled", lambda dtype: None)
            return run(hmm, tokens)

    return filtered


LAST = [DiscreteHmm.filter_last, in_torch(DiscreteHmm.filter_last)]


@settings(max_examples=25)
@given(
    num_states=st.integers(1, 4),
    num_tokens=st.integers(1, 5),
    length=st.integers(1, 6),
    concentration=st.sampled_from([0.3, 1.0, 10.0]),
    seed=st.integers(0, 1000),
)
def test_filters_and_smoother_equal_the_sum_over_all_paths(num_states, num_tokens, length, concentration, seed):
    hmm = dirichlet_hmm(num_states, num_tokens, seed=seed, concentration=concentration)
    tokens = hmm.sample(2, length, torch.Generator().manual_seed(seed)).tokens
    last, scanned, first = [run(hmm, tokens) for run in LAST], filter_by_scan(hmm, tokens), hmm.smooth_first(tokens)
    for row, sequence in enumerate(tokens.tolist()):
        for t in range(length):
            expected = marginal(enumerated(hmm, sequence[: t + 1]), t, num_states)
            np.testing.assert_allclose(scanned.probs[row, t], expected, atol=1e-12)
        joint = enumerated(hmm, sequence)
        for found in last:
            np.testing.assert_allclose(found[row], marginal(joint, -1, num_states), atol=1e-12)
        np.testing.assert_allclose(first[row], marginal(joint, 0, num_states), atol=1e-12)
        log_likelihood = math.log(sum(joint.values()))
        assert scanned.log_likelihood[row].item() == pytest.approx(log_likelihood, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("run", LAST)
def test_posteriors_sum_to_one(run):
    hmm = dirichlet_hmm(5, 4, seed=2)
    sums = run(hmm, hmm.sample(20, 50, torch.Generator().manual_seed(0)).tokens).sum(dim=-1)
    np.testing.assert_allclose(sums, 1.0, atol=1e-14)


@given(order=st.permutations(range(4)), seed=st.integers(0, 100))
def test_relabelling_the_states_permutes_the_posterior(order, seed):
    hmm = dirichlet_hmm(4, 3, seed=seed)
    moved = DiscreteHmm(hmm.initial[order], hmm.transition[order][:, order], hmm.emission[order])
    tokens = hmm.sample(3, 8, torch.Generator().manual_seed(seed)).tokens
    np.testing.assert_allclose(moved.filter_last(tokens), hmm.filter_last(tokens)[:, order], atol=1e-12)
    np.testing.assert_allclose(moved.smooth_first(tokens), hmm.smooth_first(tokens)[:, order], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
def test_ten_thousand_tokens_are_as_good_as_ten(dtype):
    hmm = dirichlet_hmm(4, 6, concentration=1.0, dtype=dtype)
    exact = dirichlet_hmm(4, 6, concentration=1.0)
    tokens = exact.sample(2, 10_000, torch.Generator().manual_seed(2)).tokens
    expected = filter_by_scan(exact, tokens)
    # the likelihood is of the order of exp(-17,000)
    assert expected.log_likelihood.max() < -10_000
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for run in LAST:
        for length in (1, 17, 500, 9_999, 10_000):
            found = run(hmm, tokens[:, :length])
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected.probs[:, length - 1], atol=tolerance)
    # what the first state was does not change after some hundred tokens
    early = exact.smooth_first(tokens[:, :500])
    np.testing.assert_allclose(hmm.smooth_first(tokens), early, atol=tolerance)


def test_samples_follow_the_tables():
    hmm = dirichlet_hmm(3, 4, concentration=1.0)
    states, tokens = hmm.sample(4000, 20, torch.Generator().manual_seed(3))
    assert states.shape == tokens.shape == (4000, 20)

    def check(counts, law):
        # four standard errors of a multinomial frequency, cell by cell
        total = counts.sum(dim=-1, keepdim=True)
        frequency = counts / total
        error = (law * (1 - law) / total).sqrt()
        assert ((frequency - law).abs() < 4 * error).all(), (frequency, law, error)

    def pairs(one, other, shape):
        return torch.zeros(shape).index_put((one.flatten(), other.flatten()), torch.ones(one.numel()), accumulate=True)

    check(torch.bincount(states[:, 0], minlength=3)[None].double(), hmm.initial[None])
    check(pairs(states[:, :-1], states[:, 1:], (3, 3)).double(), hmm.transition)
    check(pairs(states, tokens, (3, 4)).double(), hmm.emission)


def test_samples_of_a_seed_are_the_same_and_the_global_state_is_untouched():
    hmm = dirichlet_hmm(3, 4)
    before = torch.get_rng_state()
    one, other = (hmm.sample(5, 9, torch.Generator().manual_seed(4)) for _ in range(2))
    torch.testing.assert_close(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_states_of_probability_zero_are_never_drawn():
    # rows of float32 may miss 1e-6 of the mass: none of it falls to the last state
    short = torch.tensor([1 - 9e-7, 0.0])
    hmm = DiscreteHmm(short, torch.eye(2), torch.eye(2))
    sample = hmm.sample(6_000_000, 1, torch.Generator().manual_seed(5))
    assert sample.states.max() == sample.tokens.max() == 0


def test_tables_of_ints_or_of_several_dtypes_are_cast_to_float64():
    sure = DiscreteHmm(torch.tensor([1, 0]), torch.eye(2, dtype=torch.int64), torch.eye(2, dtype=torch.int32))
    assert sure.filter_last(torch.tensor([[0, 0, 0]])).tolist() == [[1.0, 0.0]]
    hmm = dirichlet_hmm(3, 4)
    mixed = DiscreteHmm(hmm.initial, hmm.transition.float(), hmm.emission)
    tokens = torch.tensor([[0, 3, 1]])
    for run in (*LAST, DiscreteHmm.smooth_first):
        found = run(mixed, tokens)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, run(hmm, tokens), rtol=1e-6, atol=1e-6)


def test_strided_tables_and_tokens_of_any_integer_dtype_work_and_stay_as_they_are():
    hmm = dirichlet_hmm(3, 4)
    strided = DiscreteHmm(hmm.initial, hmm.transition.T.contiguous().T, hmm.emission.T.contiguous().T)
    tokens = torch.tensor([[0, 3, 1, 2], [1, 1, 0, 3]])
    before = tokens.clone()
    for dtype in (torch.int16, torch.uint8, torch.uint16, torch.int64):
        for run in LAST:
            given_tokens = tokens.T.contiguous().T.to(dtype)
            torch.testing.assert_close(run(strided, given_tokens), hmm.filter_last(tokens))
    assert torch.equal(tokens, before)
    np.testing.assert_array_equal(strided.transition, hmm.transition)


HALVES = table([0.5, 0.5], [0.5, 0.5])
HMM = DiscreteHmm(table(0.5, 0.5), HALVES, HALVES)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DiscreteHmm(table(1.2, -0.2), HALVES, HALVES), r"initial\[1\]=-0\.2 is a negative probability; give"),
        (lambda: DiscreteHmm(table(0.5, 0.4), HALVES, HALVES), r"initial sums to 0\.9 but must sum to 1 .*; divide"),
        (lambda: DiscreteHmm(table(0.5, 0.5), HALVES * 0.9, HALVES), r"row 0 of transition sums to 0\.9 .*; divide"),
        (lambda: DiscreteHmm(table(0.5, 0.5), HALVES, HALVES * 1.1), r"row 0 of emission sums to 1\.1 .*; divide"),
        (
            lambda: DiscreteHmm(table(1.0), HALVES, HALVES),
            r"transition has shape \(2, 2\) but must have shape \(1, 1\)",
        ),
        (lambda: DiscreteHmm(torch.tensor(1.0), HALVES, HALVES), r"initial has shape \(\) but must have shape \(1,\)"),
        (lambda: DiscreteHmm(HALVES, HALVES, HALVES), r"initial has shape \(2, 2\) but must have shape \(4,\)"),
        (lambda: DiscreteHmm(table(0.5, 0.5), HALVES[:1], HALVES), r"transition has shape \(1, 2\) but must have"),
        (lambda: DiscreteHmm(table(0.5, 0.5), HALVES, HALVES[:1]), r"emission has shape \(1, 2\) but must have"),
        (lambda: DiscreteHmm(HMM.initial[:0], HALVES[:0, :0], HALVES[:0]), r"initial has shape \(0,\) but must not be"),
        (lambda: DiscreteHmm(HMM.initial, HALVES, HALVES[:, :0]), r"emission has shape \(2, 0\) but must not be empty"),
        (lambda: DiscreteHmm(HMM.initial * math.nan, HALVES, HALVES), r"initial\[0\]=nan must be finite; remove"),
        (lambda: DiscreteHmm(HMM.initial * 1j, HALVES, HALVES), "initial has dtype complex128 but must be real; give"),
        (lambda: HMM.sample(0, 5, torch.Generator()), "num_sequences=0 must be a whole number of 1 or more; raise it"),
        (lambda: HMM.sample(5, 0, torch.Generator()), "length=0 must be a whole number of 1 or more; raise it"),
        (
            lambda: HMM.sample(5, 2.0, torch.Generator()),
            r"length=2\.0 must be a whole number of 1 or more; give an int",
        ),
    ],
)
def test_tables_and_counts_that_mean_nothing_are_refused(build, message):
    with pytest.raises(InputError, match=message) as refused:
        build()
    assert "\n" not in str(refused.value)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize("run", [DiscreteHmm.filter_last, DiscreteHmm.smooth_first])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[0, 2]]), "tokens contain 2; give numbers from 0 to 1"),
        (torch.tensor([[0, -1]]), "tokens contain -1; give numbers from 0 to 1"),
        (torch.tensor([[0.0, 1.0]]), r"tokens have dtype torch\.float32; give whole numbers such as torch\.int64"),
        (torch.tensor([[True, False]]), r"tokens have dtype torch\.bool; give whole numbers"),
        (torch.zeros((3, 0), dtype=torch.int64), r"tokens have shape \(3, 0\); give \(sequences, length\), both 1"),
        (torch.zeros((0, 3), dtype=torch.int64), r"tokens have shape \(0, 3\); give \(sequences, length\), both 1"),
        (
            torch.zeros((2, 3), dtype=torch.int64, device="meta"),
            r"tokens are on meta; move them to the CPU with tokens\.cpu",
        ),
        (torch.tensor([0, 1]), r"tokens have shape \(2,\); give \(sequences, length\), both 1 or more"),
    ],
)
def test_tokens_that_fit_no_table_are_refused(run, tokens, message):
    with pytest.raises(InputError, match=message):
        run(HMM, tokens)


@pytest.mark.parametrize("run", [*LAST, DiscreteHmm.smooth_first])
@pytest.mark.parametrize("impossible", [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
def test_a_sequence_of_probability_zero_is_named(run, impossible):
    # both states emit token 0 alone at first; token 1 needs a state that is never reached
    hmm = DiscreteHmm(table(1.0, 0.0), table([1.0, 0.0], [0.5, 0.5]), table([1.0, 0.0], [0.5, 0.5]))
    with pytest.raises(
        InputError, match=r"tokens\[1\] is a sequence of probability zero .*; give the emission rows no"
    ):
        run(hmm, torch.tensor([[0, 0, 0], impossible]))
