"""Explain, in one line, why Hydra cannot compose a command line."""

from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from lab.cli.hydra_errors import first_line, hydra_message
from lab.core.hydra_schema import did_you_mean, refuse_taken_as_bool

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


def explain_failure(config: str, overrides: Sequence[str], error: Exception) -> str:
    """One line for an error of `hydra.compose`.

    Args:
        config: the primary configuration in conf/.
        overrides: what was composed; none of them is a sweep.
        error: what `compose` raised. Besides HydraException these are AssertionError, AttributeError and ValueError.
    """
    message = unreachable_key(config, overrides) or hydra_message(error)
    return message or f"{_culprit(config, overrides)}: {first_line(error)}; --help lists groups and keys"


def unreachable_key(config: str, overrides: Sequence[str]) -> str | None:
    """What is wrong with the first override whose key does not exist; None if all exist, or cannot be parsed.

    The message says more than Hydra where the key lies below a part that is null (`data.text.folder=X` while
    data=picture_questions), below a single value (`seed.x=3`), or only in another option of its group
    (`hmm.num_states=4` while hmm=orthogonal_modes).

    Args:
        config: the primary configuration in conf/.
        overrides: as for `explain_failure`.
    """
    from hydra import compose
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        groups = [override for override in parsed if _options(override.key_or_group)]
        for override in groups:
            if not override.is_delete() and override.value() is None:
                choices = ", ".join(_options(override.key_or_group))
                return f"{override.input_line}: a group cannot be null; choose from {choices}"
        # where to look for the options of a group
        groups += [override for override in parsed if override.key_or_group == "hydra.searchpath"]
        tree = compose(config, overrides=[str(override.input_line) for override in groups], return_hydra_config=True)
    except Exception:
        # a mistake in the groups themselves, or in their files
        return None
    OmegaConf.set_struct(tree, False)
    applied: list[Override] = []
    for override in parsed:
        if override in groups:
            continue
        message = _what_is_missing(config, tree, applied, override)
        if message is not None or not _apply(tree, override):
            return message
        applied.append(override)
    return None


def refuse_taken_as_bools(overrides: Sequence[str], composed: "DictConfig") -> None:
    """Refuse overrides of which OmegaConf has made true or false, although they are neither.

    Args:
        overrides: what was composed; none of them is a sweep.
        composed: the result.

    Raises:
        ConfigError: naming the first such key.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        is_interpolation = isinstance(value, str) and "${" in value
        if not (override.is_delete() or is_interpolation):
            refuse_taken_as_bool(value, OmegaConf.select(composed, key), key)


def _options(group: str) -> list[str]:
    """The options of a group; the names of its subgroups, if it has nothing else; none if there is no such group."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType

    loader = GlobalHydra.instance().config_loader()
    options = [name for name in loader.get_group_options(group) if not name.endswith("_schema")]
    return options or loader.get_group_options(group, ObjectType.GROUP)


def _apply(tree: "DictConfig", override: "Override") -> bool:
    """Whether an override whose key exists can be applied; a value of the wrong type is the caller's to report."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if override.is_delete():
        return True
    try:
        OmegaConf.update(tree, override.key_or_group, override.value(), merge=True, force_add=True)
    except (OmegaConfBaseException, AttributeError, AssertionError, ValueError):
        return False
    return True


def _what_is_missing(
    config: str, tree: "DictConfig", applied: Sequence["Override"], override: "Override"
) -> str | None:
    from omegaconf import DictConfig, ListConfig

    key, line = override.key_or_group, str(override.input_line)
    end = _end_of(tree, key, has_keys=isinstance(override.value(), dict))
    if end is None:
        return None
    path, node, missing = end
    is_null = node is None
    if isinstance(node, ListConfig):
        return f"{line}: {path} is a list; write the whole of it, as '{path}=[VALUE,...]'"
    if not isinstance(node, DictConfig) and not (is_null and _may_have_keys(tree, path)):
        return f"{line}: {path} is a single value and has no keys; write {path}=VALUE"
    for earlier in reversed(applied):
        if is_null and f"{path}.".startswith(f"{earlier.key_or_group}."):
            return f"{line}: {path} is null because of {earlier.input_line}; leave one of the two out"
    # `data.text` belongs to the group `data`, `student.mixer.x` to `student/mixer` rather than to `student`
    options = tree.hydra.runtime.choices
    holders = [name for name in options if missing.startswith(f"{name.replace('/', '.')}.")]
    group = max(holders, key=len, default=None)
    others = [] if group is None else [name for name in _options(group) if _has(config, f"{group}={name}", missing)]
    if others:
        state = f"{path} is null" if is_null else f"there is no key {missing}"
        choice = " or ".join(filter(None, (", ".join(others[:-1]), others[-1])))
        return f"{line}: {state} with {group}={options[str(group)]}; choose {group}={choice}"
    if is_null:
        return f"{line}: {path} is null, and no option of a group changes that; leave it out"
    if not is_dataclass(_type_of(node)):
        is_added = override.is_add() or override.is_force_add()
        return None if is_added else f"{line}: there is no key {missing}; write +{line} to add it"
    return f"{line}: unknown key{did_you_mean(missing.rpartition('.')[2], map(str, node))}"


def _end_of(tree: "DictConfig", key: str, *, has_keys: bool) -> tuple[str, Any, str] | None:
    """Where the way to a key ends too early, if it does.

    Args:
        tree: the composed configuration.
        key: dots between its parts.
        has_keys: whether the value is a mapping, which cannot be merged into null.

    Returns:
        The last part that is there, its value, and the first part that is not; for a value of null, the part that is
        null stands in the place of the last.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf

    node: Any = tree
    parts = key.replace("[", ".").replace("]", "").split(".")
    for i, part in enumerate(parts):
        path, here = ".".join(parts[:i]), ".".join(parts[: i + 1])
        if isinstance(node, ListConfig):
            is_place = part in map(str, range(len(node)))
            return None if is_place and here == key else (path, node, here)
        if not isinstance(node, DictConfig):
            return path, node, path if node is None else here
        # a list: `in` denies keys whose value is missing
        if part not in map(str, node):
            return path, node, here
        if OmegaConf.is_missing(node, part) or OmegaConf.is_interpolation(node, part):
            return None
        node = node[part]
    return (key, None, key) if node is None and has_keys and _may_have_keys(tree, key) else None


def _type_of(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.get_type(node)


def _may_have_keys(tree: "DictConfig", path: str) -> bool:
    """Whether what may stand at a path that is null now is a mapping."""
    from omegaconf import OmegaConf

    parent, _, name = path.rpartition(".")
    schema = _type_of(OmegaConf.select(tree, parent) if parent else tree)
    hint = get_type_hints(schema).get(name) if is_dataclass(schema) else None
    return any(is_dataclass(kind) or get_origin(kind) is dict for kind in (hint, *get_args(hint)))


@cache
def _has(config: str, choice: str, path: str) -> bool:
    """Whether a part exists and is not null with one choice of a group, everything else as by default."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        tree = compose(config, overrides=[choice])
    except HydraException:
        return False
    parent, _, name = path.rpartition(".")
    above = OmegaConf.select(tree, parent)
    return above is not None and (OmegaConf.is_missing(above, name) or above.get(name) is not None)


def _culprit(config: str, overrides: Sequence[str]) -> str:
    """The first override with which the configuration cannot be composed any more."""
    from hydra import compose

    for number, override in enumerate(overrides, start=1):
        try:
            compose(config, overrides=list(overrides[:number]))
        except Exception:
            return override
    return " ".join(overrides)
