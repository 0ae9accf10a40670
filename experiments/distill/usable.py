"""Whether a run takes files some of whose samples cannot be used, by a few dozen samples of each split."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lab.core.data.stream import SPLITS, FiniteSource, Source
from lab.core.errors import InputError

# samples of each split that are read before a run begins: at most a second, with large images
_NUM_LOOKED_AT = 64
# share of them that must be usable: with fewer, the file as a whole is wrong
_LEAST_USABLE = 0.1
_WORDS = {"train": "training", "test": "held-out"}
_CURES = {"train": "mend them", "test": "mend one of them, or hold out more with a larger held_out_share"}


class _Looked(NamedTuple):
    """What was seen in a split: how many samples were looked at, and the errors of those that cannot be used."""

    split: str
    number: int
    errors: Sequence[str]


def refuse_unusable(
    open_split: Callable[[str], Source], errors_of: Callable[[FiniteSource, range], Sequence[str]]
) -> None:
    """Refuse files of which nearly nothing can be used, in both splits together, or nothing in one of them.

    Args:
        open_split: opens train or test.
        errors_of: what is wrong with those of some samples that cannot be used. Of a small split they are all.

    Raises:
        InputError: with the first error, or if a split has no sample.
    """
    found: list[_Looked] = []
    for split in SPLITS:
        try:
            source = open_split(split)
        except InputError:
            # mended, the file may have samples of this split
            _refuse(found)
            raise
        if isinstance(source, FiniteSource):
            places = range(0, len(source), max(1, len(source) // _NUM_LOOKED_AT))
            found.append(_Looked(split, len(places), errors_of(source, places)))
    _refuse(found)


def _refuse(found: Sequence[_Looked]) -> None:
    errors = [error for split in found for error in split.errors]
    number = sum(split.number for split in found)
    if len(errors) > (1 - _LEAST_USABLE) * number:
        raise InputError(f"{len(errors)} of {number} samples looked at cannot be used; the first: {errors[0]}")
    for split in found:
        if len(split.errors) == split.number:
            raise InputError(
                f"none of the {_WORDS[split.split]} samples looked at ({split.number}) can be used; the first: "
                f"{split.errors[0]}; {_CURES[split.split]}"
            )
