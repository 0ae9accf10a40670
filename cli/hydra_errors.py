"""What Hydra and OmegaConf say of a mistake, as one line that names key, value and cure."""

import difflib
import io
from typing import Any, TextIO


def hydra_message(error: Exception) -> str | None:
    """One line for an error of Hydra's or OmegaConf's; None for any other."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, MissingConfigException):
        # schemas are options for Hydra, and none for the user
        options = [name for name in error.options or () if not name.endswith("_schema")]
        cure = f"choose from {', '.join(options)}" if options else "`--help` lists groups and options"
        return f"{error.missing_cfg_file}: there is no such option; {cure}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {_first_line(error)}; write KEY=VALUE, a list as 'KEY=[1,2]'"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause: BaseException = error
    while not getattr(cause, "full_key", None) and cause.__cause__ is not None:
        cause = cause.__cause__
    key = getattr(cause, "full_key", None)
    parent = getattr(cause, "parent_node", None)
    lines = [line.strip() for line in str(error).splitlines()]
    # a key that is appended is refused by the check of the configuration
    dropped = ("full_key:", "object_type=", "reference_type=", "To append to your config")
    kept = [line for line in lines if line and not line.startswith(dropped)]
    message = "; ".join(line.rstrip(".") for line in kept)
    if key and key not in message:
        message = f"{key}: {message}"
    elsewhere = _other_options(str(key), parent)
    if elsewhere:
        return elsewhere
    names = [str(name) for name in parent] if parent is not None and hasattr(parent, "keys") else []
    close = difflib.get_close_matches(str(key).rsplit(".", 1)[-1], names, n=3) if key else []
    return f"{message}; did you mean {' or '.join(close)}?" if close and key not in names else message


def _other_options(key: str, parent: Any) -> str | None:
    """One line for a key that other options of its group have; None if no option has it."""
    from dataclasses import fields, is_dataclass

    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    group, _, name = key.rpartition(".")
    if not group or not isinstance(parent, DictConfig):
        return None
    chosen = OmegaConf.get_type(parent)
    known = {field.name for field in fields(chosen)} if is_dataclass(chosen) else set()
    stored = ConfigStore.instance().repo.get(group.replace(".", "/"), {})
    if not isinstance(stored, dict) or name in known:
        return None
    having = {
        file.removesuffix(".yaml")
        for file, node in stored.items()
        if is_dataclass(kind := OmegaConf.get_type(node.node)) and name in {field.name for field in fields(kind)}
    }
    options = [option for option, schema in _options_and_schemas(group).items() if schema in having]
    if not options:
        return None
    return f"{key}: the chosen option of {group} has no such key; choose {' or '.join(f'{group}={o}' for o in options)}"


def _options_and_schemas(group: str) -> dict[str, str]:
    """The options of a group that ship with the package, and the schema that each lists first."""
    from importlib import resources

    from omegaconf import OmegaConf

    folder = resources.files("lab.conf").joinpath(group.replace(".", "/"))
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else ():
        if path.name.endswith(".yaml"):
            listed = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")))
            items = listed.get("defaults", []) if isinstance(listed, dict) else []
            schemas = [item for item in items if isinstance(item, str) and item.endswith("_schema")]
            if schemas:
                found[path.name.removesuffix(".yaml")] = schemas[0]
    return found


class WithoutHydrasLine(io.TextIOBase):
    """A stream that leaves out the line which Hydra prints before it raises the error of a job; ours says it all."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write all but that line."""
        if text.startswith("Error executing job with overrides: "):
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream below."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream below is a terminal, for the progress bar."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream below, for the size of its terminal."""
        return self._stream.fileno()

    @property
    def encoding(self) -> Any:  # type: ignore[override]  # typeshed says writeable, the interpreter does not
        """That of the stream below."""
        return self._stream.encoding


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
