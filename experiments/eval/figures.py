"""The study's figure: headline scores with their intervals, a panel a task."""

from collections.abc import Callable, Sequence

from lab.core.runs.captions import Caption
from lab.core.runs.curve_styles import PALETTE
from lab.core.runs.figures import Drawn, new_figure
from lab.experiments.eval.rows import ScoreRow

# panels side by side
_MOST_TASKS = 4


def scores(rows: Sequence[ScoreRow]) -> Drawn | None:
    """The headline score of each model on the first tasks."""
    quoted = [row for row in rows if row["kind"] in ("score", "published") and row["is_headline"]]
    tasks = list(dict.fromkeys(row["task"] for row in quoted))[:_MOST_TASKS]
    if not tasks:
        return None
    models = list(dict.fromkeys(row["model"] for row in quoted))
    figure, panels = new_figure(num_panels=len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        mine = [row for row in quoted if row["task"] == task]
        for row in mine:
            place, colour = models.index(row["model"]), PALETTE[models.index(row["model"]) % len(PALETTE)]
            axes.plot([row["value"]], [place], "o", color=colour, markersize=4)
            if row["low"] is not None and row["high"] is not None:
                axes.plot([row["low"], row["high"]], [place, place], color=colour)
        axes.set_title(task)
        axes.set_xlabel(f"{mine[0]['score']} ({mine[0]['unit']})" if mine[0]["unit"] else mine[0]["score"])
        axes.set_yticks(range(len(models)), models if axes is panels[0] else [""] * len(models))
        axes.invert_yaxis()
    kept = [row for row in quoted if row["task"] in tasks]
    names = ("task", "model", "score", "unit", "value", "low", "high", "interval", "number")
    columns = {name: [row[name] for row in kept] for name in names}  # type: ignore[literal-required]  # they are keys
    return Drawn(figure, columns, _caption(tasks))


def _caption(tasks: Sequence[str]) -> Caption:
    return Caption(
        [
            f"Headline scores on {', '.join(tasks)}.",
            "Bars: intervals, Wilson's for shares of independent answers, else percentiles of a bootstrap.",
            "Chance and published scores have none.",
        ]
    )


FIGURES: dict[str, Callable[[Sequence[ScoreRow]], Drawn | None]] = {"scores": scores}


def drawn(name: str, rows: Sequence[ScoreRow]) -> Drawn | None:
    """Draw a figure by its name; None if the rows hold nothing that it shows."""
    return FIGURES[name](rows)
