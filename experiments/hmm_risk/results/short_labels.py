"""Labels of curves for a legend: words that tell no curve from another are left out."""

import re
from collections.abc import Sequence

# words that a grid adds to a label, the least telling first
_OF_GRIDS = (
    r"noise \S+",
    r"SNR \S+",
    r"context \d+",
    r"n = \d+",
    r"T = \d+",
    r"S = \d+",
)


def short_labels(labels: Sequence[str]) -> list[str]:
    """Each label without the words of grids that are not needed to tell it from the others."""
    parts = [label.split(", ") for label in labels]
    for pattern in _OF_GRIDS:
        shorter = [[word for word in words if not re.fullmatch(pattern, word)] for words in parts]
        texts = [", ".join(words) for words in shorter]
        if all(texts) and len(set(texts)) == len(set(labels)):
            parts = shorter
    return [", ".join(words) for words in parts]
