"""How many of many cases are tried: a share of them, or all with LAB_TEST_FAULTS=all, which takes two hours."""

import os
from collections.abc import Sequence

from drawn import Case, one_in

ALL = os.environ.get("LAB_TEST_FAULTS") == "all"


def every(number: int, cases: Sequence[Case], *, of: str = "") -> list[Case]:
    """One of so many cases; see `one_in`."""
    return one_in(number, cases, of=f"faults {of}", all_of_them=ALL)
