"""Cases of `lab bench hmm-risk`: the posterior of a discrete HMM's last state, for a batch of sequences.

float32 libraries are compared with ours in float32, float64 libraries with ours in float64.
"""

# Letters: N sequences, T tokens, S states, V vocabulary.

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.hmm.discrete import DiscreteHmm
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.harness import Candidate, Case, Missing
from lab.experiments.bench.machine import load_optional


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSetting:
    """Sizes of the filter's cases."""

    num_sequences: int
    num_tokens: int
    num_states: int
    vocabulary: int


class FilterProblem:
    """A random HMM, random tokens, and every library's computation of the last posterior."""

    def __init__(self, setting: FilterSetting) -> None:
        rng = Seeds(0).numpy("filter", setting.num_states, setting.vocabulary)
        self.initial: Float64[ndarray, " S"] = rng.dirichlet(np.ones(setting.num_states))
        self.transition: Float64[ndarray, "S S"] = rng.dirichlet(np.ones(setting.num_states), setting.num_states)
        self.emission: Float64[ndarray, "S V"] = rng.dirichlet(np.ones(setting.vocabulary), setting.num_states)
        self.tokens: Int64[ndarray, "N T"] = rng.integers(
            setting.vocabulary, size=(setting.num_sequences, setting.num_tokens)
        )

    def reference(self) -> Float64[ndarray, "N S"]:
        """The definition, normalised at every token."""
        posterior = self.initial * self.emission[:, self.tokens[:, 0]].T
        posterior /= posterior.sum(axis=1, keepdims=True)
        for observed in self.tokens.T[1:]:
            posterior = (posterior @ self.transition) * self.emission[:, observed].T
            posterior /= posterior.sum(axis=1, keepdims=True)
        return posterior

    def ours(self, dtype: torch.dtype) -> Any:
        """Prepared outside of the timed call, like the models of the other libraries."""
        parameters = (torch.from_numpy(array).to(dtype) for array in (self.initial, self.transition, self.emission))
        return partial(DiscreteHmm(*parameters).filter_last, torch.from_numpy(self.tokens))

    def dynamax(self, inference: Any, *, last_only: bool) -> Any:
        """One compiled function: gather the likelihoods and filter every sequence.

        Uses dynamax's `hmm_filter` with parameters as constants of the compiled function, the fastest form found. Its
        model class makes one-hot vectors of the tokens and takes hundreds of times as long.

        Args:
            inference: dynamax's module.
            last_only: whether the function returns only the last posterior, so that the compiler can drop unused work;
                otherwise it returns everything that `hmm_filter` does.
        """
        jax = load_optional("jax")
        initial, transition, log_emission = (
            jax.numpy.asarray(array, dtype="float32")
            for array in (self.initial, self.transition, np.log(self.emission.T))
        )
        tokens = jax.numpy.asarray(self.tokens)

        def posterior(sequence: Any) -> Any:
            found = inference.hmm_filter(initial, transition, log_emission[sequence])
            return found.filtered_probs[-1] if last_only else found

        batch = jax.jit(jax.vmap(posterior))
        return lambda: jax.block_until_ready(batch(tokens))

    def pomegranate(self, hmm: Any) -> Any:
        """Its forward pass; the posterior is the normalised last row."""
        categorical = load_optional("pomegranate.distributions").Categorical
        model = hmm.DenseHMM(
            [categorical(row[None]) for row in self.emission.astype(np.float32)],
            edges=self.transition.astype(np.float32),
            starts=self.initial.astype(np.float32),
            ends=np.ones(self.initial.size, dtype=np.float32),
        )
        tokens = torch.from_numpy(self.tokens)[:, :, None]

        def last_posterior() -> Any:
            with torch.no_grad():
                return torch.softmax(model.forward(tokens)[:, -1], dim=1)

        return last_posterior

    def hmmlearn(self, hmm: Any, implementation: str) -> Any:
        """Its posterior of every token, of which the last is the filter's."""
        model = hmm.CategoricalHMM(self.initial.size, implementation=implementation)
        model.startprob_, model.transmat_, model.emissionprob_ = self.initial, self.transition, self.emission
        num_sequences, num_tokens = self.tokens.shape
        column, lengths = self.tokens.reshape(-1, 1), [num_tokens] * num_sequences
        return lambda: model.predict_proba(column, lengths)[num_tokens - 1 :: num_tokens]


def filter_cases(setting: FilterSetting, hint: str) -> list[Case]:
    """One case for each precision; `hint` installs what is missing."""
    problem = FilterProblem(setting)
    reference = problem.reference()

    def difference(posterior: Any) -> float:
        last = posterior.filtered_probs[:, -1] if hasattr(posterior, "filtered_probs") else posterior
        return float(np.max(np.abs(np.asarray(last, dtype=np.float64) - reference)))

    single = partial(Candidate, difference=difference, tolerance=1e-5, unit="absolute")
    double = partial(Candidate, difference=difference, tolerance=1e-10, unit="absolute")
    in_single: list[Candidate | Missing] = []
    inference = load_optional("dynamax.hidden_markov_model.inference")
    for name, last_only, required_ratio in (
        ("dynamax, last posterior", True, 2.5),
        ("dynamax, every posterior", False, None),
    ):
        if inference is None:
            in_single.append(Missing(name, hint))
        else:
            run = problem.dynamax(inference, last_only=last_only)
            in_single.append(single(name=name, run=run, required_ratio=required_ratio))
    pomegranate = load_optional("pomegranate.hmm")
    if pomegranate is None:
        in_single.append(Missing("pomegranate", hint))
    else:
        in_single.append(single(name="pomegranate", run=problem.pomegranate(pomegranate), required_ratio=4.0))
    in_double: list[Candidate | Missing] = []
    hmmlearn = load_optional("hmmlearn.hmm")
    for implementation, required_ratio in (("log", 50.0), ("scaling", None)):
        name = f"hmmlearn predict_proba({implementation})"
        if hmmlearn is None:
            in_double.append(Missing(name, hint))
        else:
            run = problem.hmmlearn(hmmlearn, implementation)
            in_double.append(double(name=name, run=run, required_ratio=required_ratio))
    sizes = f"S = {setting.num_states}, V = {setting.vocabulary}"
    what = f"posterior of the last state, {setting.num_sequences} sequences of {setting.num_tokens} tokens"
    return [
        Case(
            name=f"filter {sizes}, float32",
            setting=what,
            ours=single(name="lab filter_last, float32", run=problem.ours(torch.float32)),
            others=in_single,
        ),
        Case(
            name=f"filter {sizes}, float64",
            setting=what,
            ours=double(name="lab filter_last, float64", run=problem.ours(torch.float64)),
            others=in_double,
        ),
    ]
