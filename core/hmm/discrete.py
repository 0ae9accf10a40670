"""The discrete HMM: hidden states that emit tokens, the language-model view of Wei, Xie and Ma (arXiv 2106.09226).

p(h_1) = initial, p(h_{t+1} | h_t) = transition, p(x_t | h_t) = emission. The forward filter has two forms: a loop over
tokens, batched over sequences, and an associative scan over the tokens of each. Both normalise as they go, so that ten
thousand tokens are as good as ten; each is the other's test.
"""

# Letters: S states, V tokens, N sequences, T tokens of a sequence.

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lab.core import validation
from lab.core.errors import InputError
from lab.core.hmm.forward_filter import Forward, forward
from lab.core.hmm.random_models import DiscreteTables
from lab.core.scan import associative_scan, combine_matrices, scale_rows

# eigenvalues of a transition this close to 1 are 1 but for rounding
_UNIT_EIGENVALUE = 1e-10


class DiscreteSample(NamedTuple):
    """Sequences drawn from a `DiscreteHmm`.

    Attributes:
        states: h_1 .. h_T.
        tokens: x_1 .. x_T.
    """

    states: Int[Tensor, "N T"]
    tokens: Int[Tensor, "N T"]


class Filtered(NamedTuple):
    """What the tokens up to each time say about the state at that time.

    Attributes:
        probs: p(h_t | x_1 .. x_t).
        log_likelihood: log p(x_1 .. x_T) in nats.
    """

    probs: Float[Tensor, "N T S"]
    log_likelihood: Float[Tensor, " N"]


@dataclass(frozen=True, eq=False)
class DiscreteHmm:
    """A hidden Markov model with S states and V tokens.

    Attributes:
        initial: p(h_1).
        transition: p(h_{t+1} | h_t), one row for each h_t.
        emission: p(x_t | h_t), one row for each h_t.

    Computation is in float32 if all three are, else in float64.

    Raises:
        InputError: for shapes that do not fit, entries that are negative or not finite, and rows that do not sum to
            one.
    """

    initial: Float[Tensor, " S"]
    transition: Float[Tensor, "S S"]
    emission: Float[Tensor, "S V"]

    def __post_init__(self) -> None:
        tables = {field.name: torch.as_tensor(getattr(self, field.name)) for field in fields(self)}
        size = tables["initial"].numel()
        shapes: dict[str, tuple[int | None, ...]] = {
            "initial": (size,),
            "transition": (size, size),
            "emission": (size, None),
        }
        is_single = all(table.dtype == torch.float32 for table in tables.values())
        for name, table in tables.items():
            tolerance = validation.PROBABILITY_TOLERANCE
            if table.dtype == torch.float32:
                tolerance = validation.FLOAT32_PROBABILITY_TOLERANCE
            validation.probability_rows(name, table.numpy(), shape=shapes[name], tolerance=tolerance)
            # products need one dtype: float64 unless all three are float32
            object.__setattr__(self, name, table if is_single else table.double())

    @classmethod
    def from_tables(cls, tables: DiscreteTables, *, dtype: torch.dtype = torch.float64) -> "DiscreteHmm":
        """The HMM of some random tables (`hmm_families`)."""
        return cls(*(torch.as_tensor(table).to(dtype) for table in tables))

    @property
    def num_states(self) -> int:
        """S."""
        return self.transition.shape[0]

    @property
    def num_tokens(self) -> int:
        """V."""
        return self.emission.shape[1]

    def sample(self, num_sequences: int, length: int, generator: torch.Generator) -> DiscreteSample:
        """Draw sequences of `length` tokens.

        Raises:
            InputError: if a count is below 1.
        """
        batch, steps = (
            validation.whole_number("num_sequences", num_sequences),
            validation.whole_number("length", length),
        )
        uniform = torch.rand((2, steps, batch), dtype=torch.float64, generator=generator)
        moves, emissions = self.transition.double().cumsum(dim=1), self.emission.double().cumsum(dim=1)
        states = torch.empty((steps, batch), dtype=torch.int64)
        states[0] = _draw(self.initial.double().cumsum(dim=0).expand(batch, -1), uniform[0, 0])
        for t in range(1, steps):
            states[t] = _draw(moves[states[t - 1]], uniform[0, t])
        tokens = torch.stack([_draw(emissions[states[t]], uniform[1, t]) for t in range(steps)])
        return DiscreteSample(states.T.contiguous(), tokens.T.contiguous())

    def filter(self, tokens: Int[Tensor, "N T"]) -> Filtered:
        """Forward filter, token by token for all sequences together.

        Raises:
            InputError: for tokens outside [0, V), not whole or none at all, and for a sequence that is impossible, as
                far as floats can tell: a state with less than about 1e-308 (in float32 1e-38) of the probability counts
                as one with none.
        """
        probs, masses = self._forward(tokens, last_only=False)
        return Filtered(probs, masses.log().sum(dim=0))

    def filter_by_scan(self, tokens: Int[Tensor, "N T"]) -> Filtered:
        """The same by an associative scan of S x S matrices: depth log T instead of T, and S times the work.

        Raises:
            InputError: as `filter`.
        """
        by_time = self._checked(tokens)
        likelihoods = self.emission.T[by_time]
        # the product of all matrices up to t has p(h_t, x_1 .. x_t) in every row
        matrices = self.transition * likelihoods[:, :, None, :]
        matrices[0] = (self.initial * likelihoods[0])[:, None, :]
        probs, log_mass = associative_scan(combine_matrices, tuple(scale_rows(matrices)), dim=0)
        # the mass of all tokens so far is soon too small for a float, its logarithm never
        self._refuse_impossible(log_mass[:, :, 0, 0].isfinite())
        return Filtered(probs[:, :, 0].transpose(0, 1), log_mass[-1, :, 0, 0])

    def filter_last(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, "N S"]:
        """p(h_T | x_1 .. x_T) alone: nothing of the length of the sequence is kept but the masses.

        Raises:
            InputError: as `filter`.
        """
        return self._forward(tokens, last_only=True).posteriors[:, 0]

    def smooth_first(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, "N S"]:
        """p(h_1 | x_1 .. x_T), by the backward recursion.

        Raises:
            InputError: as `filter`.
        """
        by_time = self._checked(tokens)
        emission, backward = self.emission.T.contiguous(), self.transition.T.contiguous()
        message = torch.ones((by_time.shape[1], self.num_states), dtype=self.transition.dtype)
        for t in range(by_time.shape[0] - 1, 0, -1):
            message = (message * emission[by_time[t]]) @ backward
            # a column of zeros stays zero, and is found out at the end
            message /= message.sum(dim=1, keepdim=True).clamp_min(torch.finfo(message.dtype).tiny)
        joint = self.initial * emission[by_time[0]] * message
        masses = joint.sum(dim=1, keepdim=True)
        self._refuse_impossible(masses.T)
        return joint / masses

    def log_likelihood(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, " N"]:
        """log p(x_1 .. x_T) in nats.

        Raises:
            InputError: as `filter`.
        """
        return self.filter(tokens).log_likelihood

    def next_token_law(self, posterior: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch V"]:
        """p(x_{T+1} | x_1 .. x_T) = posterior A E."""
        return posterior @ self.transition @ self.emission

    def stationary_distribution(self) -> Float[Tensor, " S"]:
        """The law of the state that the transition leaves as it is.

        Raises:
            InputError: if there is more than one, because the states fall into several closed classes.
        """
        # rows sum to one up to a tolerance that the eigenvalue 1 would not survive
        transition = self.transition.double() / self.transition.double().sum(dim=1, keepdim=True)
        closed = int((torch.linalg.eigvals(transition) - 1).abs().lt(_UNIT_EIGENVALUE).sum())
        if closed != 1:
            raise InputError(
                f"transition has {closed} closed classes of states (such as absorbing states) and as many stationary "
                "laws; join them with small probabilities, or choose the initial law yourself"
            )
        system = torch.cat([transition.T - torch.eye(self.num_states), torch.ones((1, self.num_states))])
        target = torch.zeros(self.num_states + 1, dtype=torch.float64)
        target[-1] = 1
        law = torch.linalg.lstsq(system, target, driver="gelsd").solution.clamp_min(0)
        return (law / law.sum()).to(self.transition.dtype)

    def _forward(self, tokens: Int[Tensor, "N T"], *, last_only: bool) -> Forward:
        found = forward(self.initial, self.transition, self.emission, self._checked(tokens), last_only=last_only)
        self._refuse_impossible(found.masses)
        return found

    def _checked(self, tokens: Tensor) -> Int[Tensor, "T N"]:
        """Tokens by time, one row for each: a view where they were int64."""
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise InputError(f"tokens have shape {tuple(tokens.shape)}; give (sequences, length), both 1 or more")
        if tokens.dtype.is_floating_point or tokens.dtype.is_complex or tokens.dtype == torch.bool:
            raise InputError(f"tokens have dtype {tokens.dtype}; give whole numbers such as torch.int64")
        if not tokens.is_cpu:
            raise InputError(f"tokens are on {tokens.device}; move them to the CPU with tokens.cpu()")
        tokens = tokens.to(torch.int64)
        lowest, highest = (int(extreme) for extreme in tokens.aminmax())
        if lowest < 0 or highest >= self.num_tokens:
            wrong = lowest if lowest < 0 else highest
            raise InputError(f"tokens contain {wrong}; give numbers from 0 to {self.num_tokens - 1}")
        return tokens.T

    @staticmethod
    def _refuse_impossible(masses: Shaped[Tensor, "T N"]) -> None:
        # NaN, which follows a mass of zero, is no mass either
        is_possible = masses > 0
        if not is_possible.all():
            index = int((~is_possible.all(dim=0)).nonzero()[0, 0])
            raise InputError(
                f"tokens[{index}] is a sequence of probability zero under this HMM, as far as floats can tell; give "
                "the emission rows no zeros, or leave the sequence out"
            )


def _draw(cumulative: Float[Tensor, "N K"], uniform: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Inverse of the distribution function, row by row."""
    # sums end at 1 up to a tolerance, and no state without mass may take what is missing
    level = uniform[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative.contiguous(), level, right=True)[:, 0]
    # rounding may still carry a level to the last sum
    return found.clamp_max(cumulative.shape[1] - 1)
