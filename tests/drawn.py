"""Of tables that try the same code many times, a part that is drawn from a seed: a digest of all committed files.

The last lines of a run name its seed, and LAB_TEST_SEED draws the same part again. LAB_TEST_CASES=all tries every case.
"""

import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

Case = TypeVar("Case")


def _of_tree() -> int:
    """A number of the files of a commit, whoever wrote it and when; 0 without git."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD^{tree}"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int(said[:8], 16)


# set here, so that all processes of a run draw the same
SEED = int(os.environ.setdefault("LAB_TEST_SEED", str(_of_tree())))
ALL = os.environ.get("LAB_TEST_CASES") == "all"


def one_in(number: int, cases: Sequence[Case], *, of: str, all_of_them: bool = ALL) -> list[Case]:
    """The number-th part of the cases, at least one, in their order; `of` tells tables apart that are drawn alike."""
    if all_of_them:
        return list(cases)
    places = random.Random(f"{SEED} {of}").sample(range(len(cases)), -(-len(cases) // number))
    return [cases[place] for place in sorted(places)]
