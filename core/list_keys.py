"""Keys of a configuration that hold a list: one value stands for a list of one, from wherever it comes."""

from dataclasses import fields

from lab.core.errors import ConfigError

_WORDS = {int: "whole numbers", float: "numbers", str: "names"}
_EXAMPLES = {int: "1,2", float: "0.5,2", str: "NAME,NAME"}


def settle_lists(config: object, **kinds: type[int] | type[float] | type[str]) -> None:
    """Make fields of a configuration lists of one kind; they are typed Any, since OmegaConf has no type for both forms.

    Args:
        config: a dataclass.
        kinds: the kind of the entries of each field. A field whose default is None may be None.

    Raises:
        ConfigError: naming the field, its value and what to write.
    """
    optional = {field.name for field in fields(config) if field.default is None}  # type: ignore[arg-type]
    for name, kind in kinds.items():
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        entries = list(value) if isinstance(value, list | tuple) else [value]
        if not all(_is_of_kind(entry, kind) for entry in entries):
            shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value
            raise ConfigError(f"{name}={shown}: give {_WORDS[kind]}, one or a list as in [{_EXAMPLES[kind]}]")
        setattr(config, name, [kind(entry) for entry in entries])


def _is_of_kind(entry: object, kind: type) -> bool:
    if isinstance(entry, bool):
        return False
    return isinstance(entry, int | float) if kind is float else isinstance(entry, kind)
