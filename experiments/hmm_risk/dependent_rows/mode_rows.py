"""Exact moments of dependent rows of independent modes: every width is a problem of as many modes and targets."""

# Letters: n rows in the order (sequence, token), T tokens, d features of the widest model, p width, m outputs, k latent
# factors, c components (modes, or planes of two modes).

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Num
from numpy import ndarray
from typing_extensions import override

from lab.core import validation
from lab.core.errors import InputError
from lab.experiments.hmm_risk.dependent_rows.token_rows import ExpectedTargets, TokenRows


@dataclass(frozen=True)
class ModeTokenRows(TokenRows):
    """As many independent modes as features: x_t = z_t + u_t and y_t = z_{t+1}; every width is a separate problem.

    Modes have unit stationary variance. A real mode has the autocovariance a^|l|; two modes that rotate in a plane,
    written as one complex number, have (a exp(i angle))^l.

    Attributes:
        decay: a of every mode, between -1 and 1; the two modes of a plane share it, and it is not negative.
        observation_noise: standard deviation of each entry of u_t, positive.
        length: T.
        angle: rotation of each plane, radians; None for real modes. With planes, widths are even, and a last mode
            without a partner is left out.

    Raises:
        InputError: if an argument is outside these bounds or shapes do not match.
    """

    decay: Float64[ndarray, " d"]
    observation_noise: float
    length: int
    angle: Float64[ndarray, " planes"] | None = None

    def __post_init__(self) -> None:
        decay = validation.real_array("decay", self.decay, shape=(None,))
        if decay.size == 0 or np.abs(decay).max() >= 1:
            raise InputError(f"decay={decay} must hold numbers between -1 and 1; give one or more")
        validation.positive_number("observation_noise", self.observation_noise)
        validation.whole_number("length", self.length)
        if self.angle is not None:
            num_planes = decay.size // 2
            angle = validation.real_array("angle", self.angle, shape=((decay.size + 1) // 2,))
            object.__setattr__(self, "angle", angle[:num_planes])
            decay = decay[: 2 * num_planes]
            if num_planes == 0 or decay.min() < 0 or np.any(decay[0::2] != decay[1::2]):
                raise InputError(f"decay={decay} must hold one number of 0 or more twice for every plane; repeat it")
        object.__setattr__(self, "decay", decay)

    @property
    @override
    def num_features(self) -> int:
        return self.decay.size

    @property
    @override
    def noise_variance(self) -> float:
        return 1 + self.observation_noise**2

    @property
    def modes_per_component(self) -> int:
        """2 for planes, 1 for real modes."""
        return 1 if self.angle is None else 2

    def num_components(self, width: int) -> int:
        """Planes, or real modes, among the first `width` features.

        Raises:
            InputError: if the width is out of range or cuts through a plane.
        """
        if self._check_width(width) % self.modes_per_component:
            raise InputError(f"width={width} sees only one of the two modes of a plane; give an even width")
        return width // self.modes_per_component

    @cached_property
    def autocovariance(self) -> Num[ndarray, "c T_plus_1"]:
        """E[z_{t+l} conj(z_t)] for l = 0 .. T, per unit of variance; complex for planes."""
        return self._moduli[:, None] ** np.arange(self.length + 1) * self._phases

    @override
    def factor(self, width: int) -> Float64[ndarray, "p k"]:
        return np.zeros((self._check_width(width), 0))

    @override
    def coefficients(self, width: int) -> Float64[ndarray, "p m"]:
        # row i of B is the prediction from feature i alone
        return self._from_components(self._given_token(self._components(np.eye(width), self.num_components(width))))

    @override
    def noise_trace(self, width: int) -> float:
        num_components = self.num_components(width)
        explained = self.modes_per_component * float(np.sum(self._moduli[:num_components] ** 2)) / self.noise_variance
        return width - explained

    @override
    def sequence_noise(self, width: int) -> Float64[ndarray, "T T"]:
        return self._cumulative_noise[self.num_components(width) - 1]

    @override
    def expected_targets(self, features: Float64[ndarray, "n d"], widths: Sequence[int]) -> Iterator[ExpectedTargets]:
        num_rows, num_components = features.shape[0], self.num_components(max(widths))
        seen = self._components(features, num_components)
        given_token = self._from_components(self._given_token(seen))
        # in a frame rotating with its plane, a complex mode is real
        steps = self._phases[:num_components, None]
        turned = seen.reshape(num_components, -1, self.length) * steps[..., :-1].conj()
        smoothed = (turned @ self._gains[:num_components].swapaxes(1, 2)) * steps[..., 1:]
        given_sequence = self._from_components(smoothed.reshape(num_components, num_rows))
        for width in widths:
            self.num_components(width)
            yield ExpectedTargets(given_sequence[:, :width], given_token[:, :width])

    @cached_property
    def _moduli(self) -> Float64[ndarray, " c"]:
        return self.decay[:: self.modes_per_component]

    @cached_property
    def _phases(self) -> Num[ndarray, "c T_plus_1"]:
        if self.angle is None:
            return np.ones((self.decay.size, self.length + 1))
        return np.exp(1j * self.angle[:, None] * np.arange(self.length + 1))

    @cached_property
    def _gains(self) -> Float64[ndarray, "c T T"]:
        """G with E[z_{t+1} | x] = sum_s G_ts x_s, in the rotating frame."""
        ahead, present = self._turned_covariances()
        present[:, np.arange(self.length), np.arange(self.length)] += self.observation_noise**2
        return np.linalg.solve(present, ahead.swapaxes(1, 2)).swapaxes(1, 2)

    @cached_property
    def _cumulative_noise(self) -> Float64[ndarray, "c T T"]:
        """Omega for the first component, the first two, and so on (cumulative)."""
        ahead, present = self._turned_covariances()
        left = present - self._gains @ ahead.swapaxes(1, 2)
        times = np.arange(self.length)
        # the trace of a rotation by phi is 2 cos(phi)
        turns = self._phases[:, np.abs(np.subtract.outer(times, times))].real
        return np.cumsum(self.modes_per_component * left * turns, axis=0)

    def _turned_covariances(self) -> tuple[Float64[ndarray, "c T T"], Float64[ndarray, "c T T"]]:
        """Cov(z_{t+1}, z_s) and Cov(z_t, z_s) for t, s = 1 .. T."""
        times = np.arange(self.length)
        lags = np.subtract.outer(times, times)
        moduli = self._moduli[:, None, None]
        return moduli ** np.abs(lags + 1), moduli ** np.abs(lags)

    def _given_token(self, seen: Num[ndarray, "c n"]) -> Num[ndarray, "c n"]:
        return (self.autocovariance[: seen.shape[0], 1] / self.noise_variance)[:, None] * seen

    def _components(self, features: Float64[ndarray, "n d"], num_components: int) -> Num[ndarray, "c n"]:
        columns = features.T[: num_components * self.modes_per_component]
        return columns if self.angle is None else columns[0::2] + 1j * columns[1::2]

    def _from_components(self, values: Num[ndarray, "c n"]) -> Float64[ndarray, "n d"]:
        if self.angle is None:
            return values.T
        return np.stack([values.real, values.imag], axis=1).reshape(-1, values.shape[1]).T
