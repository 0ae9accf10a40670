"""The discrete HMM: hidden states that emit tokens, the language-model view of Wei, Xie and Ma (arXiv 2106.09226).

p(h_1) = initial, p(h_{t+1} | h_t) = transition, p(x_t | h_t) = emission. The recursions are normalised at every token,
so precision does not degrade with sequence length.
"""

# Letters: S states, V tokens, N sequences, T tokens of a sequence.

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor

from lab.core import validation
from lab.core.errors import InputError
from lab.core.hmm.forward_filter import forward
from lab.core.hmm.random_models import DiscreteTables


class DiscreteSample(NamedTuple):
    """Sequences drawn from a `DiscreteHmm`.

    Attributes:
        states: h_1 .. h_T.
        tokens: x_1 .. x_T.
    """

    states: Int[Tensor, "N T"]
    tokens: Int[Tensor, "N T"]


@dataclass(frozen=True, eq=False)
class DiscreteHmm:
    """A hidden Markov model with S states and V tokens.

    Attributes:
        initial: p(h_1).
        transition: p(h_{t+1} | h_t), one row for each h_t.
        emission: p(x_t | h_t), one row for each h_t.

    Computation is in float32 if all three are, else in float64.

    Raises:
        InputError: if shapes do not match, entries are negative or not finite, or rows do not sum to one.
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
            # matrix products need a common dtype: float64 unless all three are float32
            object.__setattr__(self, name, table if is_single else table.double())

    @classmethod
    def from_tables(cls, tables: DiscreteTables, *, dtype: torch.dtype = torch.float64) -> "DiscreteHmm":
        """The HMM given by random tables (`random_models`)."""
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

    def filter_last(self, tokens: Integer[Tensor, "N T"]) -> Float[Tensor, "N S"]:
        """p(h_T | x_1 .. x_T), by the forward recursion.

        Raises:
            InputError: for tokens that are empty, not integers or outside [0, V), and for a sequence of probability
                zero. State probabilities below about 1e-308 (1e-38 in float32) underflow to zero.
        """
        posterior, masses = forward(self.initial, self.transition, self.emission, self._checked(tokens))
        self._refuse_impossible(masses)
        return posterior

    def smooth_first(self, tokens: Integer[Tensor, "N T"]) -> Float[Tensor, "N S"]:
        """p(h_1 | x_1 .. x_T), by the backward recursion.

        Raises:
            InputError: as `filter_last`.
        """
        by_time = self._checked(tokens)
        emission, backward = self.emission.T.contiguous(), self.transition.T.contiguous()
        message = torch.ones((by_time.shape[1], self.num_states), dtype=self.transition.dtype)
        for t in range(by_time.shape[0] - 1, 0, -1):
            message = (message * emission[by_time[t]]) @ backward
            # a column of zeros stays zero, and is detected at the end
            message /= message.sum(dim=1, keepdim=True).clamp_min(torch.finfo(message.dtype).tiny)
        joint = self.initial * emission[by_time[0]] * message
        masses = joint.sum(dim=1, keepdim=True)
        self._refuse_impossible(masses.T)
        return joint / masses

    def _checked(self, tokens: Tensor) -> Int[Tensor, "T N"]:
        """Tokens transposed to time first; a view if they were int64."""
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
        # also catches NaN, which follows a mass of zero
        is_possible = masses > 0
        if not is_possible.all():
            index = int((~is_possible.all(dim=0)).nonzero()[0, 0])
            raise InputError(
                f"tokens[{index}] is a sequence of probability zero under this HMM (up to underflow); give "
                "the emission rows no zeros, or leave the sequence out"
            )


def _draw(cumulative: Float[Tensor, "N K"], uniform: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Inverse CDF sampling, row by row."""
    # sums reach 1 only up to a tolerance, and the remainder must not go to a state without mass
    level = uniform[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative.contiguous(), level, right=True)[:, 0]
    # rounding may still lift a level to the last sum
    return found.clamp_max(cumulative.shape[1] - 1)
