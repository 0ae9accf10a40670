"""Arguments of functions that Python programs call, such as `lab.load`: types, lists, paths and images.

Numbers and arrays that must have certain values are checked by `core.validation`.
"""

from collections.abc import Sequence
from datetime import date, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from PIL import Image

from lab.core.errors import ConfigError, InputError

_SHOWN = 60
_TEXT = "text; put it in quotation marks"
# NumPy's numbers are registered as these
_WHOLE, _NUMBER = "a whole number; give one, such as 8", "a number; give one, such as 0.5"


def require_text(**values: object) -> None:
    """Refuse a value that is not text, under its name.

    Raises:
        ConfigError: naming argument, value and fix.
    """
    _refuse_unless(values, str, _TEXT)


def require_whole(**values: object) -> None:
    """Refuse a value that is not a whole number, under its name; see `require_text`."""
    _refuse_unless(values, Integral, _WHOLE)


def require_number(**values: object) -> None:
    """Refuse a value that is not a number, under its name; see `require_text`."""
    _refuse_unless(values, Real, _NUMBER)


def require_flag(**values: object) -> None:
    """Refuse a value other than True and False, under its name; see `require_text`."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name}={_line(value)} must be True or False; give one of the two")


def require_day(day: object) -> None:
    """Refuse what is not a day; see `require_text`."""
    if isinstance(day, datetime) or not isinstance(day, date):
        raise ConfigError(f"day={_line(day)} must be a day; give one, such as datetime.date(2024, 7, 26)")


def require_path(**values: object) -> None:
    """Refuse a value that is neither a name nor a path, under its name.

    Raises:
        ConfigError: for another type.
        InputError: for a name that the file system does not take.
    """
    _refuse_unless(values, str | Path, "a name or a path; give text or a pathlib.Path")
    for name, value in values.items():
        _refuse_unusable(name, Path(str(value)))


def require_list(of: type[int] | type[str], **values: object) -> None:
    """Refuse a value that is not a list or a tuple of whole numbers (`int`) or of text (`str`), under its name.

    Raises:
        ConfigError: naming argument, value and fix.
    """
    kind, words = (Integral, _WHOLE) if of is int else (str, _TEXT)
    for name, value in values.items():
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise ConfigError(f"{name}={_line(value)} must be a list; write {name}=[…]")
        _refuse_unless({f"{name}[{number}]": part for number, part in enumerate(value)}, kind, words)


def images_of(images: object) -> list[Path | Image.Image]:
    """Images of a prompt, with names of files as paths.

    Args:
        images: paths, names of files and images of Pillow, in a list or a tuple.

    Raises:
        InputError: for another type, an image that is not in a list, and a name that the file system does not take.
    """
    if isinstance(images, str | bytes) or not isinstance(images, Sequence):
        raise InputError(f"images={_line(images)} must be a list; write images=[…], also for a single image")
    return [_image(number, image) for number, image in enumerate(images)]


def _image(number: int, image: object) -> Path | Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        path = Path(image)
        _refuse_unusable(f"images[{number}]", path)
        return path
    raise InputError(
        f"images[{number}]={_line(image)} must be the path of a file or an image of Pillow; PIL.Image.fromarray makes "
        "one of an array"
    )


def _refuse_unusable(name: str, path: Path) -> None:
    try:
        path.exists()
    except OSError as error:
        raise InputError(
            f"{name}={_line(str(path))} cannot be looked up ({error.strerror}); give another path"
        ) from None


def _refuse_unless(values: dict[str, object], kind: Any, words: str) -> None:
    for name, value in values.items():
        # True is a whole number to Python
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{name}={_line(value)} must be {words}")


def _line(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
