"""What the numbers of a probe do not say, in sentences, where it applies."""

from collections.abc import Iterator

from lab.experiments.probe.config import Basis
from lab.experiments.probe.results import Results


def limits(results: Results, basis: Basis) -> Iterator[str]:
    """Sentences for the end of a verdict."""
    sizes = sorted({curve["num_rows"] for curve in results.curves})
    rows = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    yield (
        f"all draws, and the rows on which risks are measured, are from one pool of {rows} rows: intervals and "
        "comparisons hold for this pool, and more draws make them narrower, not truer for other rows"
    )
    if _has_contexts(results):
        yield (
            "rows on which risks are measured may share contexts with training rows: the risk is that of new rows of "
            "known contexts, which may be lower than that of new contexts"
        )
    if basis is Basis.principal:
        yield (
            "principal components are those of all rows of the pool, held-out ones among them; components of training "
            "rows alone may give a higher risk"
        )


def of_other_risk(results: Results, how: str) -> str:
    """What a choice is scored against, where that is another risk than the one that it estimates."""
    if not _has_contexts(results) or how == "gcv":
        return ""
    return ", by the risk on new rows of known contexts, where the choice estimates that of new contexts"


def _has_contexts(results: Results) -> bool:
    # runs of earlier versions do not say so
    return results.has_contexts or any(curve.get("num_contexts") is not None for curve in results.curves)
