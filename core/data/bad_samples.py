"""Samples that cannot be trained on: why, where they are, and what is done about them."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from lab.core.errors import InputError


class OnBadSample(Enum):
    """What is done about a sample that cannot be used: it is left out and counted, or it ends the run."""

    skip = "skip"
    refuse = "refuse"


class Reason(Enum):
    """Why a sample cannot be used; the values are what tables say."""

    missing_image = "missing image"
    unreadable_image = "unreadable image"
    empty_image = "empty image file"
    no_image = "no image"
    cut_image = "cut image"
    too_many_pixels = "too many pixels"
    too_narrow = "too narrow image"
    unknown_white = "greys without a white"
    wrong_json = "wrong JSON"
    wrong_conversation = "wrong conversation"
    too_many_marks = "too many image marks"
    too_few_marks = "too few image marks"
    too_long = "too long"
    other = "other"


class BadSample(InputError):
    """A sample that cannot be used, and why; it can be pickled."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadSample"], tuple[str, Reason]]:
        return type(self), (str(self), self.reason)


def reason_of(error: InputError) -> Reason:
    """Why a sample cannot be used, from the error that reading it raised."""
    return error.reason if isinstance(error, BadSample) else Reason.other


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample is.

    Attributes:
        file: that holds it; empty for samples that are made.
        number: of its line, item of a list, row or group of members, from 1.
        unit: what `number` counts, such as `line`.
    """

    file: str
    number: int
    unit: str = "sample"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}" if self.file else f"{self.unit} {self.number}"


@runtime_checkable
class Placed(Protocol):
    """A source that knows where its samples are."""

    def place(self, index: int) -> Place:
        """Where sample `index` is."""
        ...


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A sample that was left out."""

    place: Place
    reason: Reason
    error: str
