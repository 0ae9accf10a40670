"""Replicates of one student: the mean of each of their scores, with an interval over seeds.

Intervals of a single model are over samples: what other questions would give. These are over trainings: what other
random numbers would give, on the same questions.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lab.experiments.distill.seeds import estimate
from lab.experiments.distill.selector import ALL_REPLICATES, SELECTED
from lab.experiments.eval.rows import ScoreRow

_STUDENTS_T = "Student's t"


def groups_of(labels: Sequence[str]) -> dict[str, list[str]]:
    """Replicates that differ in nothing else, by RUN@STAGE:VARIANT:*; single ones are left out."""
    found: dict[str, list[str]] = {}
    for label in labels:
        matched = SELECTED.fullmatch(label)
        if matched is not None and matched["replicate"] is not None:
            name = f"{matched['name']}@{matched['stage']}:{matched['variant'] or ''}:{ALL_REPLICATES}"
            found.setdefault(name, []).append(label)
    return {name: members for name, members in found.items() if len(members) > 1}


def seed_rows(rows: Sequence[ScoreRow], labels: Sequence[str], confidence: float) -> Iterator[ScoreRow]:
    """Means over seeds of every score, difference and recovered share that all replicates of a group have.

    Args:
        rows: of one task.
        labels: of the models.
        confidence: coverage of the intervals.
    """
    known = {(row["kind"], row["score"], row["model"]): row for row in rows}
    for group, members in groups_of(labels).items():
        for kind, score in dict.fromkeys((row["kind"], row["score"]) for row in rows if row["model"] == members[0]):
            mine = [known[key] for member in members if (key := (kind, score, member)) in known]
            if len(mine) < len(members):
                continue
            values = [row["value"] for row in mine]
            low, high = students_t(values, confidence)
            yield {
                **mine[0],
                "model": f"{group}, {len(mine)} seeds",
                "value": float(np.mean(values)),
                "low": low,
                "high": high,
                "interval": f"{_STUDENTS_T} over {len(mine)} seeds",
                "number": len(mine),
            }


def replicates(labels: Iterable[str]) -> dict[str, str]:
    """The mean that each replicate is a part of, by the labels of both; models without such a mean are left out."""
    labels = list(labels)
    groups = groups_of(list(dict.fromkeys(labels)))
    means = {mean: group for mean in labels for group in groups if mean.startswith(f"{group}, ")}
    return {member: mean for mean, group in means.items() for member in groups[group]}


def is_mean(row: ScoreRow) -> bool:
    """Whether a row is about the mean over seeds."""
    return row["interval"].startswith(_STUDENTS_T)


def students_t(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """The interval of the mean of two or more independent normal values."""
    found = estimate(values, confidence)
    assert found.half_width is not None, "there are two values at least"
    return found.mean - found.half_width, found.mean + found.half_width
