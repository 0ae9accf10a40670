"""A hidden Markov model of the user: the arrays of an .npz file, read without pickle and checked before a run."""

# Letters: q state entries, p features of a token, S states, V tokens.

import hashlib
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from typing_extensions import override

from lab.core import validation
from lab.core.errors import ConfigError, InputError
from lab.core.hmm.linear_gaussian import LinearGaussianHmm, stable_transition
from lab.core.hmm.random_models import DiscreteTables
from lab.core.resources import refuse_too_large
from lab.core.runs.atomic_files import refuse_special
from lab.experiments.hmm_risk.config import DiscreteConfig, FileConfig, LinearGaussianConfig, Start

_GAUSSIAN = ("transition", "loading", "state_noise_covariance", "initial_covariance", "observation_noise")
# what numpy and zipfile raise for other files, damaged ones, Python objects, and shapes beyond all memory
_OF_NUMPY = (ValueError, EOFError, OSError, KeyError, NotImplementedError, MemoryError, OverflowError)
_DAMAGE = (*_OF_NUMPY, zipfile.BadZipFile, zlib.error, struct.error)

_DISCRETE = ("start", "transition", "emission")

# of features and their noise: sums of their eighth powers, and inverses of those, are numbers of float64
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-20, 1e20


@dataclass(kw_only=True, slots=True)
class OwnGaussian(LinearGaussianConfig):
    """A linear-Gaussian HMM from a file, in place of a drawn one.

    Attributes:
        hmm: with every row of the loading, and the observation noise of the file or 1.
        observation_noise: of the file; None if it has none.
        path: of the file.
        digest: SHA-256 of the file.
    """

    hmm: LinearGaussianHmm
    observation_noise: float | None
    path: str
    digest: str

    @override
    def __post_init__(self) -> None:
        """Nothing is drawn, so that no key of a draw has to fit."""


@dataclass(kw_only=True, slots=True)
class OwnDiscrete(DiscreteConfig):
    """A discrete HMM from a file, in place of a drawn one."""

    tables: DiscreteTables
    path: str
    digest: str

    @override
    def __post_init__(self) -> None:
        """Nothing is drawn, so that no key of a draw has to fit."""


def read_hmm(config: FileConfig) -> OwnGaussian | OwnDiscrete:
    """The model in a file; its keys say of which kind it is.

    Raises:
        ConfigError: naming file, key, value and fix, if the file cannot be read or holds no model.
    """
    place, path = f"hmm.path={config.path}", Path(config.path).expanduser()
    refuse_special(path, ConfigError)
    try:
        refuse_too_large(2 * path.stat().st_size, place, "give a smaller file")
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{place}: cannot be read ({reason}); give an .npz file that numpy.savez wrote") from None
    arrays = _arrays(place, content)
    digest = hashlib.sha256(content).hexdigest()
    try:
        if "emission" in arrays:
            return _discrete(config, arrays, digest)
        return _gaussian(config, arrays, digest)
    except InputError as error:
        raise ConfigError(f"{place}: {error}") from None


def _arrays(place: str, content: bytes) -> dict[str, ndarray]:
    hint = "write it with numpy.savez(FILE, transition=…)"
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as compressed:
                # a small file can hold arrays of any size
                refuse_too_large(sum(part.file_size for part in compressed.infolist()), place, "give smaller arrays")
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                return {name: archive[name] for name in archive.files}
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{place}: cannot be read as an .npz file of numbers ({reason}); {hint}") from None
    raise ConfigError(f"{place}: holds one array without a name; {hint}")


def _take(arrays: dict[str, ndarray], known: tuple[str, ...], required: tuple[str, ...]) -> dict[str, ndarray]:
    for name in arrays:
        if name not in known:
            raise InputError(f"{name}: unknown array; leave it out, the file may hold {', '.join(known)}")
    for name in required:
        if name not in arrays:
            raise InputError(f"{name} is missing; add it, the file needs {', '.join(required)}")
    return arrays


def _gaussian(config: FileConfig, arrays: dict[str, ndarray], digest: str) -> OwnGaussian:
    _take(arrays, _GAUSSIAN, ("transition", "loading", "state_noise_covariance"))
    transition = validation.square_matrix("transition", arrays["transition"])
    size = transition.shape[0]
    loading = validation.real_array("loading", arrays["loading"], shape=(None, size))
    state_noise = validation.covariance_matrix("state_noise_covariance", arrays["state_noise_covariance"], size=size)
    noise = None
    if "observation_noise" in arrays:
        noise = validation.positive_number("observation_noise", arrays["observation_noise"])
    given: dict[str, Any] = {
        "transition": transition,
        "loading": loading,
        "state_noise_covariance": state_noise,
        "observation_noise": 1.0 if noise is None else noise,
    }
    hmm = _started(config, given, arrays.get("initial_covariance"))
    return OwnGaussian(
        state_dim=size,
        start=Start.stationary if hmm.is_stationary else Start.identity,
        hmm=hmm,
        observation_noise=noise,
        path=config.path,
        digest=digest,
    )


def _started(config: FileConfig, given: dict[str, Any], initial: Float64[ndarray, "q q"] | None) -> LinearGaussianHmm:
    """With the start of the file, of the key, or the stationary one."""
    if initial is not None:
        if config.start is not None:
            raise InputError(f"initial_covariance is given, and hmm.start={config.start.value} too; leave one out")
        return LinearGaussianHmm(**given, initial_covariance=initial)
    if config.start is Start.identity:
        return LinearGaussianHmm(**given, initial_covariance=np.eye(given["transition"].shape[0]))
    radius = validation.spectral_radius(given["transition"])
    if radius >= 1:
        raise InputError(
            f"transition has spectral radius {radius:.6g}, and no stationary distribution to start from; add the array "
            "initial_covariance, give hmm.start=identity, or divide transition"
        )
    stable_transition("transition", given["transition"])
    return LinearGaussianHmm.stationary(**given)


def _discrete(config: FileConfig, arrays: dict[str, ndarray], digest: str) -> OwnDiscrete:
    _take(arrays, _DISCRETE, _DISCRETE)
    if config.start is not None:
        raise InputError(f"hmm.start={config.start.value}: the file has the array start; leave the key out")
    start = _probabilities("start", arrays["start"], shape=(None,))
    size = start.size
    tables = DiscreteTables(
        start,
        _probabilities("transition", arrays["transition"], shape=(size, size)),
        _probabilities("emission", arrays["emission"], shape=(size, None)),
    )
    return OwnDiscrete(
        num_states=size, num_tokens=tables.emission.shape[1], tables=tables, path=config.path, digest=digest
    )


def _probabilities(name: str, table: ndarray, *, shape: tuple[int | None, ...]) -> Float64[ndarray, "..."]:
    """Rows that sum to one in float64, from those that do in the precision of the file."""
    if table.dtype != np.float32:
        return validation.probability_rows(name, table, shape=shape)
    tolerance = validation.FLOAT32_PROBABILITY_TOLERANCE
    rows = validation.probability_rows(name, table, shape=shape, tolerance=tolerance)
    return rows / rows.sum(axis=-1, keepdims=True)


def check_states(own: OwnGaussian, num_tokens: int, observation_noise: float, smallest: float) -> None:
    """Refuse states and noise whose powers leave float64, or states beside which the noise of the features is rounding.

    Args:
        own: the model.
        num_tokens: read before the predicted one.
        observation_noise: of the problem.
        smallest: the least noise, as a share of the size of the features.

    Raises:
        ConfigError: naming the file and the fix.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        covariance = own.hmm.state_covariance(num_tokens + 1)
        seen = own.hmm.loading @ covariance
        size = float(np.sqrt(np.max(np.sum(seen * own.hmm.loading, axis=1), initial=0.0)))
    if not np.isfinite(covariance).all() or not size < 1e100:
        raise ConfigError(
            f"hmm.path={own.path}: transition lets the state grow beyond what float64 can hold in {num_tokens} tokens; "
            "give fewer tokens, or a smaller transition"
        )
    if observation_noise < smallest * size:
        raise ConfigError(
            f"observation_noise={observation_noise:g}: beside features of size {size:.3g} in hmm.path={own.path} risks "
            f"are right to eight digits from {smallest * size:.3g}; give that or more"
        )
    largest = max(size, observation_noise)
    if observation_noise < _SMALLEST_SCALE or largest > _LARGEST_SCALE:
        raise ConfigError(
            f"hmm.path={own.path}: features of size {size:.3g} with observation_noise={observation_noise:g} are not "
            f"from {_SMALLEST_SCALE:g} to {_LARGEST_SCALE:g}, where float64 holds their powers; divide loading and "
            f"observation_noise by {largest:.3g}"
        )
