"""From recorded samples to rows of scores: with intervals, differences from the teacher, and recovery."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lab.experiments.eval.benchmark_task import BenchmarkTask
from lab.experiments.eval.config import CHANCE, EvalConfig
from lab.experiments.eval.intervals import BOOTSTRAP, NONE, Scored, percentiles, recovered, scored
from lab.experiments.eval.published import published_score
from lab.experiments.eval.rows import Row, ScoreRow
from lab.experiments.eval.seeds import seed_rows
from lab.experiments.eval.task import Measured, Task

RECOVERED = "recovered above chance"


def score_rows(rows: Sequence[Row], tasks: Sequence[Task], labels: Sequence[str], config: EvalConfig) -> list[ScoreRow]:
    """All scores of finished samples.

    Args:
        rows: of the run.
        tasks: in the order of the table.
        labels: of the models, in the order of the table.
        config: of the run.
    """
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] in ("answer", "choice", "piece"):
            samples.setdefault((row["task"], row["model"]), []).append(dict(row))
    found: list[ScoreRow] = []
    for task in tasks:
        by_model = {
            label: task.measured(samples[task.word, label]) for label in labels if (task.word, label) in samples
        }
        chance = task.chance() if CHANCE in config.baselines else None
        scores = list(_of_task(task.word, by_model, chance, config))
        found += [*scores, *seed_rows(scores, labels, config.confidence)]
        if isinstance(task, BenchmarkTask):
            measured = {row["score"] for row in found if row["task"] == task.word}
            found += _published(task, measured, config)
    return found


def _of_task(
    task: str, by_model: Mapping[str, Sequence[Measured]], chance: Measured | None, config: EvalConfig
) -> Iterator[ScoreRow]:
    # what several models have: their answers, and what of them was compared with the teacher
    most = max(map(len, by_model.values()), default=0)
    guess: float | None = None
    for part in range(most):
        found = scored(
            {model: parts[part] for model, parts in by_model.items() if len(parts) > part},
            num_resamples=config.resamples,
            seed=config.seed,
            purpose=f"bootstrap of part {part} of {task}",
        )
        if part == 0 and chance is not None:
            values = {name: float(value[0]) for name, value in chance.scores(chance.counts.totals()).items()}
            guessed = Scored(chance, values, {})
            guess = None if guessed.headline is None else values[guessed.headline]
            yield from (_row(CHANCE, task, guessed, name, (None, None, NONE), part) for name in values)
        for model, scores in found.items():
            for name in scores.values:
                yield _row(model, task, scores, name, scores.interval(name, config.confidence), part)
        if part == 0 and config.against in found:
            yield from _against_teacher(task, found, config.against, guess, config)


def _published(task: BenchmarkTask, measured: set[str], config: EvalConfig) -> Iterator[ScoreRow]:
    """The headline of a benchmark as the paper reports it, with the number of questions that were asked here."""
    benchmark = task.benchmark
    headline = next((name for name in benchmark.headlines if name in measured), None)
    for model in config.published:
        value = published_score(model, benchmark.name)
        # a judge's score has nothing beside it
        if value is None or headline is None:
            continue
        yield {
            "kind": "published",
            "model": f"{model}, published",
            "task": task.word,
            "score": headline,
            "unit": benchmark.unit,
            "value": value,
            "low": None,
            "high": None,
            "interval": NONE,
            "number": task.size(None),
            "is_headline": True,
        }


def _against_teacher(
    task: str, found: Mapping[str, Scored], teacher: str, guess: float | None, config: EvalConfig
) -> Iterator[ScoreRow]:
    theirs = found[teacher]
    for model, ours in found.items():
        name = ours.headline
        # other clusters would be other draws: texts in another vocabulary still have the same documents
        if model == teacher or name is None or ours.measured.counts.clusters != theirs.measured.counts.clusters:
            continue
        ends = percentiles(ours.draws[name] - theirs.draws[name], config.confidence)
        row = _row(model, task, ours, name, (*ends, BOOTSTRAP), 0)
        yield {**row, "kind": "difference", "value": ours.values[name] - theirs.values[name], "against": teacher}
        if guess is None or ours.measured.is_lower_better:
            continue
        share = float(recovered([ours.values[name]], [theirs.values[name]], guess)[0])
        if math.isnan(share):
            continue
        ends = percentiles(recovered(ours.draws[name], theirs.draws[name], guess), config.confidence)
        row = _row(model, task, ours, name, (*ends, BOOTSTRAP), 0)
        yield {**row, "kind": "recovered", "unit": "%", "value": share, "against": teacher}


def _row(
    model: str, task: str, of: Scored, name: str, interval: tuple[float | None, float | None, str], part: int
) -> ScoreRow:
    low, high, how = interval
    return {
        "kind": "score",
        "model": model,
        "task": task,
        "score": name,
        "unit": of.measured.unit_of(name),
        "value": of.values[name],
        "low": low,
        "high": high,
        "interval": how,
        "number": len(of.measured.counts.clusters),
        # of the parts of a task, the first has the score to quote
        "is_headline": part == 0 and name == of.headline,
    }


def wins_and_ties(rows: Sequence[ScoreRow], model: str, tolerance: float, lower_is_better: set[str]) -> tuple[int, int]:
    """Tasks on which a model's headline is at least the teacher's less a tolerance, and all tasks that both did.

    Args:
        rows: of the table.
        model: its label.
        tolerance: in the unit of the headline.
        lower_is_better: names of scores that are losses.
    """
    differences = [row for row in rows if row["kind"] == "difference" and row["model"] == model]
    gains = [-row["value"] if row["score"] in lower_is_better else row["value"] for row in differences]
    return int(np.sum([gain >= -tolerance for gain in gains])), len(gains)
