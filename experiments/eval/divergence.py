"""Counts and scores of how near a model's next tokens are to its teacher's."""

from lab.core.benchmarks.accuracy import ratio
from lab.core.benchmarks.spec import Scores, Totals
from lab.core.benchmarks.totals import table_of
from lab.experiments.eval.task import Measured, Rows

KL, AGREEMENT = "KL to the teacher", "agreement with the teacher"


def divergence_of(rows: Rows) -> list[Measured]:
    """The divergence of some samples; nothing if there was no teacher to compare with."""
    counted = {
        str(row["place"]): {"kl": row["kl"], "agreeing": row["agreeing"], "compared": row["num_compared"]}
        for row in rows
        if row.get("num_compared")
    }
    if not counted:
        return []
    return [Measured(table_of(counted), _scores, (KL,), unit_of, lambda name: False, is_lower_better=True)]


def _scores(totals: Totals) -> Scores:
    return {
        KL: ratio(totals["kl"], totals["compared"]),
        AGREEMENT: 100 * ratio(totals["agreeing"], totals["compared"]),
    }


def unit_of(name: str) -> str:
    """The unit of a divergence, or of a share of tokens."""
    return "nats a token" if name == KL else "%"
