"""Packages of extras, which not everybody installs: imported where they are needed."""

from importlib import import_module
from typing import Any

from lab.core.errors import BackendError

_OLDEST = {"gguf": "0.10", "transformers": "5.23"}
# where pip calls it otherwise
_DISTRIBUTIONS = {"easy_vqa": "easy-vqa"}


def load_package(name: str, *besides: str, needed_by: object) -> Any:
    """Import a package.

    Args:
        name: of the package.
        besides: other packages without which it does not do what is needed.
        needed_by: what needs it, for the error: a key and its value, say, or a file.

    Raises:
        BackendError: naming the first that is not installed, and the command that installs them all.
    """
    distributions = {each: _DISTRIBUTIONS.get(each, each) for each in (name, *besides)}
    for each, distribution in distributions.items():
        try:
            import_module(each)
        except ImportError:
            version = f" {_OLDEST[each]} or newer" if each in _OLDEST else ""
            command = f"pip install {' '.join(distributions.values())}"
            raise BackendError(f"{needed_by} needs {distribution}{version}; {command}") from None
    return import_module(name)
