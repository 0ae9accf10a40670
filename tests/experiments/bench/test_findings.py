"""Findings: numbers that are no times, judged, printed and counted."""

import math
import os

import pytest
from rich.console import Console

from lab.experiments.bench import report
from lab.experiments.bench.findings import Finding
from lab.experiments.bench.harness import Result, Row, Status


@pytest.mark.parametrize(
    ("value", "at_least", "at_most", "is_met"),
    [
        (0.5, 0.45, None, True),
        (0.4, 0.45, None, False),
        (1.0, None, 1.05, True),
        (1.1, None, 1.05, False),
        (math.nan, None, 1.05, False),
        (None, None, 1.05, False),
        (None, None, None, None),
        (1.0, None, None, None),
    ],
)
def test_a_finding_is_judged_by_its_bounds(
    value: float | None, at_least: float | None, at_most: float | None, is_met: bool | None
) -> None:
    assert Finding(name="", value=value, at_least=at_least, at_most=at_most).is_met is is_met


def test_findings_are_printed_and_counted_with_the_ratios() -> None:
    findings = [
        Finding(name="share", value=0.4, at_least=0.45),
        Finding(name="crossover", value=250.0, unit="tokens", at_most=300),
        Finding(name="memory", value=None, at_most=0.15, note="killed"),
    ]
    rows = [Row(case="a", candidate="peer", status=Status.timed, ratio=3.0, required_ratio=4.0)]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print_findings(console, findings)
    report.print_summary(console, [Result("a", "", rows, 0.0)], findings)
    console.file.close()
    text = console.export_text()
    assert "250 tokens" in text
    assert "not found" in text
    assert "requirements met: 1 of 4 that could be measured" in text
    assert "missed: a, peer: 3 instead of 4" in text
    assert "missed: share: 0.4 instead of at least 0.45" in text
    assert "missed: memory: not found instead of at most 0.15" in text
