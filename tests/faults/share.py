"""How many of many cases are tried: a share of them, or all with LAB_TEST_FAULTS=all, which takes an hour."""

import os
from collections.abc import Sequence
from typing import TypeVar

Case = TypeVar("Case")

ALL = os.environ.get("LAB_TEST_FAULTS") == "all"


def every(number: int, cases: Sequence[Case]) -> list[Case]:
    """One of so many cases."""
    return list(cases if ALL else cases[::number])
