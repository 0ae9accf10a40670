"""The study's figure: headline scores with their intervals, a panel a task."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from lab.core.runs.captions import Caption
from lab.core.runs.curve_styles import PALETTE
from lab.core.runs.figures import Drawn, new_figure
from lab.experiments.eval.rows import ScoreRow
from lab.experiments.eval.seeds import replicates

# panels side by side
_MOST_TASKS = 4
_SCORE, _SEED = PALETTE[:2]
_INCHES_A_LETTER, _INCHES_A_LINE, _INCHES_AROUND = 0.07, 0.2, 1.0


def scores(rows: Sequence[ScoreRow]) -> Drawn | None:
    """The headline score of each model on the first tasks.

    Replicates of a student are drawn on the row of their mean.
    """
    quoted = [row for row in rows if row["kind"] in ("score", "published") and row["is_headline"]]
    tasks = list(dict.fromkeys(row["task"] for row in quoted))[:_MOST_TASKS]
    if not tasks:
        return None
    kept = [row for row in quoted if row["task"] in tasks]
    seeds = replicates(row["model"] for row in kept)
    models = list(dict.fromkeys(row["model"] for row in kept if row["model"] not in seeds))
    figure, panels = new_figure(num_panels=len(tasks))
    _make_room(figure, models)
    for axes, task in zip(panels, tasks, strict=True):
        mine = [row for row in kept if row["task"] == task]
        for row in mine:
            place = models.index(seeds.get(row["model"], row["model"]))
            if row["model"] in seeds:
                axes.plot([row["value"]], [place], "o", color=_SEED, markersize=2, zorder=3)
                continue
            axes.plot([row["value"]], [place], "o", color=_SCORE, markersize=4)
            if row["low"] is not None and row["high"] is not None:
                axes.plot([row["low"], row["high"]], [place, place], color=_SCORE)
        axes.set_title(task)
        axes.set_xlabel(f"{mine[0]['score']} ({mine[0]['unit']})" if mine[0]["unit"] else mine[0]["score"])
        axes.set_yticks(range(len(models)), models if axes is panels[0] else [""] * len(models))
        axes.invert_yaxis()
    names = ("task", "model", "score", "unit", "value", "low", "high", "interval", "number")
    columns = {name: [row[name] for row in kept] for name in names}  # type: ignore[literal-required]  # they are keys
    return Drawn(figure, columns, _caption(tasks, has_seeds=bool(seeds)))


def _make_room(figure: Figure, models: Sequence[str]) -> None:
    """Widen a figure by the names of its lines, and let it grow with their number."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(
        width + _INCHES_A_LETTER * max(map(len, models)), max(height, _INCHES_AROUND + _INCHES_A_LINE * len(models))
    )


def _caption(tasks: Sequence[str], *, has_seeds: bool) -> Caption:
    return Caption(
        [
            f"Headline scores on {', '.join(tasks)}.",
            "Bars: intervals, Wilson's for shares of independent answers, else percentiles of a bootstrap"
            + ("; of means over seeds Student's t, and small dots are the seeds." if has_seeds else "."),
            "Chance and published scores have none.",
        ]
    )


FIGURES: dict[str, Callable[[Sequence[ScoreRow]], Drawn | None]] = {"scores": scores}


def drawn(name: str, rows: Sequence[ScoreRow]) -> Drawn | None:
    """Draw a figure by its name; None if the rows hold nothing that it shows."""
    return FIGURES[name](rows)
