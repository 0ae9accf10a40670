"""Errors of Hydra and OmegaConf as one line that names the key, the value and a hint."""

import io
import logging
import os
import re
from argparse import Namespace
from typing import Any, TextIO

from lab.core.dotted_keys import by_dotted_key
from lab.core.errors import ConfigError
from lab.core.hydra_schema import did_you_mean

_NOT_OPTIONAL = re.compile(r"field '[^']*' is not Optional")
# flags that say what is to be done with a configuration
_MODES = ("--run", "--multirun", "--cfg", "--info", "--shell-completion")
_COMPLETIONS, _SHELLS = ("install", "uninstall", "query"), ("bash", "fish", "zsh")
# what to write where OmegaConf says only what it was given
_HINTS = {
    "could not be converted to Integer": "give one whole number",
    "could not be converted to Float": "give one number",
    "is not a valid bool": "give true or false",
    "is not a ListConfig, list or tuple": "give a list, as in 'KEY=[1,2]'",
    "Cannot merge DictConfig with ListConfig": "give a list, as in 'KEY=[1,2]'",
    "to string:": "give one text",
}


def refuse_flags_together(parsed: Namespace) -> None:
    """Refuse flags of Hydra's of which it would use some only, or none.

    Args:
        parsed: by Hydra's own parser.

    Raises:
        ConfigError: naming them.
    """
    modes = [flag for flag in _MODES if getattr(parsed, flag.strip("-").replace("-", "_")) not in (None, False)]
    if len(modes) > 1:
        raise ConfigError(f"{modes[0]} with {modes[1]}: each says what is to be done; leave one of them out")
    for flag, is_given in (
        ("--resolve", parsed.resolve and not parsed.help),
        ("--package", parsed.package is not None),
    ):
        if is_given and parsed.cfg is None:
            raise ConfigError(f"{flag}: it is about what --cfg prints; add --cfg job, or leave it out")
    if parsed.shell_completion:
        words = [word.partition("=") for word in parsed.overrides if word.partition("=")[0] in _COMPLETIONS]
        if len(words) != 1 or words[0][2] not in _SHELLS:
            choices = ", ".join(f"{name}=SHELL" for name in _COMPLETIONS)
            raise ConfigError(f"--shell-completion: give one of {choices}, with SHELL one of {', '.join(_SHELLS)}")
        if words[0][0] == "query" and "COMP_LINE" not in os.environ:
            raise ConfigError(
                "--shell-completion query: a shell asks it; install=SHELL prints what the shell has to run"
            )


def refuse_bad_levels(hydra: Any) -> None:
    """Refuse levels of logs that logging does not know, before a folder is made for the log.

    Args:
        hydra: Hydra's part of a configuration.

    Raises:
        ConfigError: naming the key.
    """
    known = logging.getLevelNamesMapping()
    for name in ("job_logging", "hydra_logging"):
        for key, level in by_dotted_key(_content(hydra.get(name))).items():
            is_level = key.rpartition(".")[2] == "level" and isinstance(level, str) and "${" not in level
            if is_level and level not in known:
                raise ConfigError(f"hydra.{name}.{key}={level}: there is no such level; choose from {', '.join(known)}")


def _content(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else None
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def hydra_message(error: Exception) -> str | None:
    """One line for an error of Hydra's or OmegaConf's; None for any other."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, MissingConfigException):
        # schemas are options for Hydra but not for the user
        options = [name for name in error.options or () if not name.endswith("_schema")]
        hint = (
            f"choose from {', '.join(options)}"
            if options
            else "`--help` lists those there are, and --config-dir DIR adds yours"
        )
        return f"{error.missing_cfg_file}: there is no such option; {hint}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {first_line(error)}; write KEY=VALUE, a list as 'KEY=[1,2]'"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause: BaseException = error
    while not getattr(cause, "full_key", None) and cause.__cause__ is not None:
        cause = cause.__cause__
    key = getattr(cause, "full_key", None)
    parent = getattr(cause, "parent_node", None)
    # what Hydra says of a value that does not fit names the override; OmegaConf's error below it says why
    merged = str(error).removeprefix("Error merging override ")
    text = str(error) if merged == str(error) or error.__cause__ is None else f"{merged}: {error.__cause__}"
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type="))]
    message = "; ".join(line.rstrip(".") for line in kept)
    message = _NOT_OPTIONAL.sub("it cannot be null; give a value", message)
    message = "; ".join([message, *(hint for words, hint in _HINTS.items() if words in message)])
    last = str(key).rpartition(".")[2]
    names = [str(name) for name in parent] if parent is not None and hasattr(parent, "keys") else []
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and names and last not in names:
        return f"{key}: unknown key{did_you_mean(last, names)}"
    return f"{key}: {message}" if key and key not in message else message


class WithoutHydrasLine(io.TextIOBase):
    """A stream without the line that Hydra prints before it raises the error of a job."""

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
        """The encoding of the stream below."""
        return self._stream.encoding


def first_line(error: Exception) -> str:
    """The first line of an error's text; the name of its class, if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
