"""Report of an evaluation: one table of all models, and what it says in sentences."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

from lab.core.runs.json_files import Entry
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.divergence import KL
from lab.experiments.eval.results import wins_and_ties
from lab.experiments.eval.rows import Row, ScoreRow
from lab.experiments.eval.seeds import is_mean, replicates

_COLUMNS = (
    "task",
    "score",
    "model",
    "value",
    "low",
    "high",
    "interval",
    "minus teacher",
    "its low",
    "its high",
    "recovered %",
    "from",
    "to",
    "n",
)
LOWER_IS_BETTER = frozenset(("cross-entropy", "perplexity", "bits per byte", KL))


def summary_table(table: Sequence[Row]) -> tuple[list[str], list[list[Entry]]]:
    """Header and rows, a block for each task: every score that is about all samples, for every model."""
    scores = _scores(table)
    shown = ("score", "published")
    more = {(row["kind"], row["model"], row["task"], row["score"]): row for row in scores if row["kind"] not in shown}
    lines: list[list[Entry]] = []
    for task in dict.fromkeys(row["task"] for row in scores):
        mine = [row for row in scores if row["task"] == task and row["kind"] in shown]
        # of parts of the samples, such as a category, only the table knows
        names = dict.fromkeys(row["score"] for row in mine if row["is_headline"] or "," not in row["score"])
        for name in names:
            for row in (row for row in mine if row["score"] == name):
                key = row["model"], task, name
                difference, share = (more.get((kind, *key)) for kind in ("difference", "recovered"))
                lines.append(
                    [
                        task,
                        f"{name}, {row['unit']}" if row["unit"] else name,
                        row["model"],
                        row["value"],
                        row["low"],
                        row["high"],
                        row["interval"],
                        *_ends(difference),
                        *_ends(share),
                        None if row["kind"] == "published" else row["number"],
                    ]
                )
    return list(_COLUMNS), lines


def headline(table: Sequence[Row]) -> str:
    """The first scores in a few words."""
    quoted = [row for row in _scores(table) if row["kind"] == "score" and row["is_headline"] and row["interval"]]
    words = [
        f"{row['model']} {row['value']:.4g} {row['unit']}".strip() for row in quoted if row["task"] == quoted[0]["task"]
    ]
    return f"{quoted[0]['task']}: {', '.join(words)}" if quoted else "nothing is scored"


def verdict(table: Sequence[Row], config: EvalConfig) -> list[str]:
    """The findings in sentences, and how intervals were made."""
    return [*_recovered(table, config), *_windows(table, config), *_left_out(table), _method(table, config)]


def _recovered(table: Sequence[Row], config: EvalConfig) -> Iterator[str]:
    scores = _scores(table)
    per_cent = f"{100 * config.confidence:g} %"
    for row in _without_replicates([row for row in scores if row["kind"] == "recovered"]):
        if row["low"] is not None and row["high"] is not None:
            yield (
                f"{row['task']}: {row['model']} has {row['value']:.1f} % of the skill of {config.against} above chance "
                f"({per_cent}: {row['low']:.1f} to {row['high']:.1f})"
            )
    compared = _without_replicates([row for row in scores if row["kind"] == "difference"])
    for model in dict.fromkeys(row["model"] for row in compared):
        wins, total = wins_and_ties(scores, model, config.tolerance, set(LOWER_IS_BETTER))
        yield (
            f"{model} wins or ties with {config.against} on {wins} of {total} tasks, at a tolerance of "
            f"{config.tolerance:g} in the unit of each headline"
        )


def _without_replicates(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Rows of models whose mean over seeds is not among them: the table has each seed."""
    single = replicates(row["model"] for row in rows)
    return [row for row in rows if row["model"] not in single]


def _windows(table: Sequence[Row], config: EvalConfig) -> Iterator[str]:
    for row in table:
        if row["kind"] != "model" or "windows" not in row:
            continue
        sizes = row["windows"]
        ends = " to ".join(f"{size:,}" for size in sorted({min(sizes), max(sizes)}))
        yield (
            f"{row['model']}: {len(sizes)} of {row['num_layers']} layers see the last {ends} tokens and the first "
            f"{config.num_sinks}, as many as fit into the bytes of its states"
        )


def _left_out(table: Sequence[Row]) -> Iterator[str]:
    for row in table:
        if row["kind"] == "task" and row["num_left_out"]:
            yield f"{row['task']}: {row['num_left_out']} rows without an image were not asked, as in VLMEvalKit"
    ends: dict[tuple[str, str, str], int] = {}
    for row in table:
        if row["kind"] == "answer" and row["stopped_at"] != "end of turn":
            key = row["task"], row["model"], row["stopped_at"]
            ends[key] = ends.get(key, 0) + 1
    words = {"too long": "prompts were longer than the model reads, and count as not answered"}
    for (task, model, stopped_at), number in ends.items():
        yield f"{task}: {model}: {number} {words.get(stopped_at, f'answers ended at {stopped_at}')}"
    unread = Counter(
        (row["task"], row["model"]) for row in table if row["kind"] == "choice" and not row["log_likelihoods"]
    )
    for (task, model), number in unread.items():
        yield f"{task}: {model}: {number} questions with an option were longer than the model reads, and count as wrong"
    reasons = Counter(
        (row["task"], row["model"], row["not_compared"])
        for row in table
        if row["kind"] == "answer" and "not_compared" in row
    )
    for (task, model, reason), number in reasons.items():
        yield f"{task}: {model}: {number} questions are not in the {KL}: {reason}"


def _method(table: Sequence[Row], config: EvalConfig) -> str:
    over_seeds = any(map(is_mean, _scores(table)))
    more = "; of means over seeds Student's t, on the same samples" if over_seeds else ""
    return (
        f"intervals of {100 * config.confidence:g} %: Wilson's for shares of independent answers, else percentiles of "
        f"{config.resamples:,} bootstrap resamples of the samples, paired between models{more}"
    )


def _ends(row: ScoreRow | None) -> list[Entry]:
    return [None] * 3 if row is None else [row["value"], row["low"], row["high"]]


def _scores(table: Sequence[Row]) -> list[ScoreRow]:
    return [cast("ScoreRow", row) for row in table if "score" in row]
