"""Findings about shares of the machine's peak, by both ways of counting operations."""

from lab.experiments.bench.findings import Finding
from lab.experiments.bench.harness import Row
from lab.experiments.bench.rates import MachinePeak


def share_findings(what: str, row: Row, peak: MachinePeak, *, at_least: float | None) -> list[Finding]:
    """The shares of one candidate: operations as executed, which are judged, and as in the paper.

    Where the peak or the count is not known, nothing is judged, and the note says why.
    """
    why_not = peak.why_not or "operations are not counted for this implementation"
    is_known = row.executed_share is not None
    return [
        Finding(
            name=f"share of the {peak.basis}, {what}, operations as executed",
            value=row.executed_share,
            at_least=at_least if is_known else None,
            note="products that the loops execute, on and below the diagonal of a chunk" if is_known else why_not,
        ),
        Finding(
            name=f"share of the {peak.basis}, {what}, operations as in the paper",
            value=row.peak_share,
            note="counted for chunks of 64 in full squares" if row.peak_share is not None else why_not,
        ),
    ]
