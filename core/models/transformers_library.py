"""The package transformers, where it is needed: an extra that not everybody installs."""

from typing import Any

from lab.core.errors import BackendError


def load_transformers(what: str) -> Any:
    """The package.

    Args:
        what: needs it, such as a key and its value.

    Raises:
        BackendError: if it is not installed.
    """
    try:
        import transformers  # noqa: PLC0415
    except ImportError:
        raise BackendError(f"{what} needs transformers 5.23 or newer; pip install transformers") from None
    return transformers
