"""Configurations that a command line composes, and the values over which it sweeps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.cli.override_errors import explain_failure, refuse_taken_as_bools
from lab.core.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


class Axes(NamedTuple):
    """What a command line fixes, and what it sweeps.

    Attributes:
        fixed: overrides of one value.
        swept: for each override of several values, an override for each value; in the order of Hydra's sweeper.
    """

    fixed: list[str]
    swept: list[list[str]]


def composed(config: str, overrides: Sequence[str], **options: bool) -> Any:
    """The configuration that overrides compose.

    Raises:
        ConfigError: if they do not. Errors of Hydra and OmegaConf for a key that cannot be reached have no common
            class, and `compose` runs no code of ours.
    """
    from hydra import compose

    try:
        found = compose(config, overrides=list(overrides), **options)
    except Exception as error:
        raise ConfigError(explain_failure(config, overrides, error)) from error
    refuse_taken_as_bools(overrides, found)
    return found


def without_hydra(found: Any) -> Any:
    """The configuration as a job sees it, of one that was composed with Hydra's own."""
    from omegaconf import open_dict

    with open_dict(found):
        del found["hydra"]
    return found


def sweep_axes(overrides: Sequence[str], *, is_search: bool = False) -> Axes:
    """What overrides fix and sweep. Of a key that is given twice the last counts, in the place of the first.

    Args:
        overrides: those of `hydra.sweeper.params` first, as Hydra reads them.
        is_search: whether a sweeper chooses the points itself; of a range or an interval the ends are listed then.

    Raises:
        ConfigError: for an override that sweeps over nothing.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    # a glob needs the names of the options
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    values: dict[str, list[str]] = {}
    is_swept: dict[str, bool] = {}
    for override in parser.parse_overrides(list(overrides)):
        key = override.get_key_element()
        is_swept[key] = override.is_sweep_override()
        if not is_swept[key]:
            values[key] = [override.input_line or ""]
        elif is_search and not override.is_choice_sweep():
            ends: Any = override.value()
            last = ends.end if override.is_interval_sweep() else ends.stop
            values[key] = [f"{key}={value}" for value in (ends.start, last)]
        else:
            values[key] = _values(override)
    fixed = [found[0] for key, found in values.items() if not is_swept[key]]
    return Axes(fixed, [found for key, found in values.items() if is_swept[key]])


def _values(override: "Override") -> list[str]:
    """An override for each value of one of several."""
    try:
        found = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {error}; give values, as in KEY=1,2 or 'KEY=range(1,4)'") from error
    if not found:
        raise ConfigError(f"{override.input_line}: there is no value in it; give values, as in KEY=1,2")
    return found
