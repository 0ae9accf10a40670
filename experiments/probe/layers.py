"""Models beside each other: the best head behind each layer, on the same rows."""

import re
from collections.abc import Iterator

from lab.experiments.probe.results import Point, Results, interval

_LAYER = re.compile(r"(?:(?P<model>.*), )?layer (?P<number>\d+)(?:, (?P<variant>.*))?")
# variants that leave the rows of a draw as they are
_SAME_ROWS = {"", "as they are", "linear labels", "jitter"}


def layers_of(results: Results) -> dict[str, dict[int, Point]]:
    """The best head behind each layer for the largest n, by model and variant."""
    found: dict[str, dict[int, Point]] = {}
    size = results.sizes()[-1]
    for curve in results.curves:
        matched = _LAYER.fullmatch(curve["curve"])
        if matched is not None:
            label = ", ".join(part for part in (matched["model"], matched["variant"]) if part)
            found.setdefault(label, {})[int(matched["number"])] = results.best(curve["curve"], size)
    return found


def comparisons(results: Results) -> Iterator[str]:
    """Each model and variant against the first, layer by layer: where rows are the same, and both heads have a mean."""
    found = layers_of(results)
    first, *others = found or {"": {}}
    for other in others:
        for layer, point in found[other].items():
            theirs = found[first].get(layer)
            if theirs is None or not _are_paired(results, point, theirs):
                continue
            difference = point.risks - theirs.risks
            half, mean = interval(difference), float(difference.mean())
            much = "as much as" if abs(mean) <= half else "less than" if mean > 0 else "more than"
            yield (
                f"layer {layer}: {other} carries {much} {first}: risk of the best head {point.mean:.4g} against "
                f"{theirs.mean:.4g}, paired difference {mean:+.4f} ± {half:.4f}"
            )


def _are_paired(results: Results, one: Point, other: Point) -> bool:
    """Whether draws of two curves have the same rows, and their risks a mean each."""
    curves = {curve["curve"]: curve for curve in results.curves}
    mine, theirs = curves[one.curve], curves[other.curve]
    # tokens of another tokenizer are other rows
    of_rows = [(curve.get("num_rows"), curve.get("num_clusters")) for curve in (mine, theirs)]
    variants = {(_LAYER.fullmatch(point.curve) or {"variant": ""})["variant"] or "" for point in (one, other)}
    return (
        of_rows[0] == of_rows[1]
        and (variants <= _SAME_ROWS or variants == {"distinct"})
        and one.summary == other.summary == "mean"
        and one.risks.size == other.risks.size
    )
