"""Which problems read which keys; setting a key that no problem reads is an error."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from lab.core.errors import ConfigError
from lab.experiments.hmm_risk.config import (
    Generator,
    HmmRiskConfig,
    Loading,
    RepresentationName,
    TaskName,
    Transition,
)
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.own_hmm import OwnGaussian


class Readers(NamedTuple):
    """The problems that read a key.

    Attributes:
        words: their description in the error, after "only".
        include: whether a problem is one of them.
    """

    words: str
    include: Callable[[Cell], bool]


def _hmm(cell: Cell, **values: Any) -> bool:
    return all(getattr(cell.hmm, name, None) is value for name, value in values.items())


def _is_label(cell: Cell) -> bool:
    return cell.task.name is TaskName.downstream_label


def _has_size(cell: Cell) -> bool:
    return cell.representation.name not in (RepresentationName.posterior, RepresentationName.next_token_distribution)


def _reads_noise(cell: Cell) -> bool:
    if cell.is_discrete:
        return cell.representation.name is RepresentationName.lifted_posterior
    if isinstance(cell.hmm, OwnGaussian) and cell.hmm.observation_noise is not None:
        return False
    return cell.snr is None or _is_label(cell)


_SYMMETRIC = Readers("hmm.transition=symmetric", lambda cell: _hmm(cell, transition=Transition.symmetric))
_GAUSSIAN_LOADING = Readers("hmm.loading=gaussian", lambda cell: _hmm(cell, loading=Loading.gaussian))
_IDENTITY_LOADING = Readers("hmm.loading=identity", lambda cell: _hmm(cell, loading=Loading.identity))
_DIRICHLET = Readers("hmm.generator=dirichlet", lambda cell: _hmm(cell, generator=Generator.dirichlet))
_PERMUTATIONS = Readers("hmm.generator=permutations", lambda cell: _hmm(cell, generator=Generator.permutations))
_LABEL = Readers("task=downstream_label", _is_label)
_GAUSSIAN = Readers("linear-Gaussian HMMs", lambda cell: not cell.is_discrete)
_SIZED = Readers(
    "representations with a free size (a posterior is as wide as hmm has states, a next-token distribution as it has "
    "tokens)",
    _has_size,
)

# every key that some problem does not read; add a new key here unless all problems read it
READERS: Mapping[str, Readers] = {
    "hmm.lowest_eigenvalue": _SYMMETRIC,
    "hmm.state_noise": _GAUSSIAN_LOADING,
    "hmm.start": _GAUSSIAN_LOADING,
    "hmm.transition_concentration": _DIRICHLET,
    "hmm.emission_concentration": _DIRICHLET,
    "hmm.start_temperature": _PERMUTATIONS,
    "hmm.transition_temperature": _PERMUTATIONS,
    "hmm.emission_temperature": _PERMUTATIONS,
    "representation.window": Readers(
        "representation=context_window", lambda cell: cell.representation.name is RepresentationName.context_window
    ),
    "representation.observation_dim": Readers(
        "representation=kalman_state", lambda cell: cell.representation.name is RepresentationName.kalman_state
    ),
    "representation.size_map": _GAUSSIAN,
    "representation.num_features": _SIZED,
    "task.num_outputs": _LABEL,
    "task.decay": Readers(
        "task=downstream_label of linear-Gaussian HMMs", lambda cell: _is_label(cell) and not cell.is_discrete
    ),
    "widths": _SIZED,
    "gammas": _SIZED,
    "tokens_per_sequence": _GAUSSIAN,
    "context_length": Readers(
        "discrete HMMs and hmm.loading=gaussian with one row a sequence",
        lambda cell: cell.is_discrete or (_hmm(cell, loading=Loading.gaussian) and cell.tokens_per_sequence == 1),
    ),
    "observation_noise": Readers("problems with noise that neither snr nor hmm.path sets", _reads_noise),
    "snr": _IDENTITY_LOADING,
    "population_sequences": Readers(
        "discrete HMMs whose task has a risk", lambda cell: cell.is_discrete and not _is_label(cell)
    ),
    "ridge": Readers("heads with a ridge", lambda cell: "ridge" in cell.head_spec.reads),
    "rank_tolerance": Readers(
        "heads with a rank, on independent rows",
        lambda cell: "rank_tolerance" in cell.head_spec.reads and cell.tokens_per_sequence == 1,
    ),
}


def refuse_unread_keys(config: HmmRiskConfig, curves: Mapping[str, HmmRiskConfig], cells: Sequence[Cell]) -> None:
    """Refuse keys with a non-default value that no problem reads.

    Args:
        config: of the whole run.
        curves: the configuration of every curve, by label.
        cells: the problems of the run.

    Raises:
        ConfigError: naming the key, its value, and the problems that would read it.
    """
    base = dict(_settings(config))
    for curve, changed in curves.items():
        for key, (value, default) in _settings(changed):
            readers = READERS.get(key)
            if readers is None or value in (default, shipped_keys().get(key, default)):
                continue
            is_of_curve = base.get(key) != (value, default)
            if not any(readers.include(cell) for cell in cells if not is_of_curve or cell.curve == curve):
                place = f"curves.{curve}: " if is_of_curve else ""
                shown = getattr(value, "value", value)
                raise ConfigError(f"{place}{key}={shown}: only {readers.words} read this key; leave it out")


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Every key with its value and its default."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{field.name}.")
        else:
            default = field.default_factory() if callable(field.default_factory) else field.default
            yield f"{prefix}{field.name}", (value, default)


@cache
def shipped_keys() -> Mapping[str, Any]:
    """The keys that the primary configuration sets."""
    from omegaconf import OmegaConf  # noqa: PLC0415

    text = resources.files("lab.conf").joinpath("hmm_risk.yaml").read_text(encoding="utf-8")
    content = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(content, dict), "a configuration is a mapping"
    return {str(key): value for key, value in content.items()}
