"""Tables: whole in a file, with fewer columns in a narrow terminal, and no name cut or broken inside a word."""

import io

import pytest
from rich.console import Console

from lab.experiments.bench import report
from lab.experiments.bench.case_table import print_case
from lab.experiments.bench.findings import Finding
from lab.experiments.bench.harness import Candidate, Case, Row, Status
from lab.experiments.bench.rates import MachinePeak

NAMES = (
    "lab ssd",
    "scikit-learn LinearRegression, test set",
    "flash-linear-attention, naive chunks, chunk 256",
    "causal softmax attention (SDPA)",
)


def rows(unit: str = "of the largest") -> list[Row]:
    timed = [
        Row(
            case="forward",
            candidate=name,
            status=Status.timed,
            difference=8.6e-7,
            tolerance=2e-5,
            unit=unit,
            times_s=(0.122, 0.123, 0.124),
            calls_per_repeat=3,
            ratio=123.0,
            required_ratio=40.0,
            executed_share=0.75,
            peak_share=1.03,
        )
        for name in NAMES
    ]
    differs = Row(case="forward", candidate="wrong", status=Status.differs, difference=0.1, tolerance=1e-6, unit=unit)
    note = "not installed: pip install 'ssm-lab[bench]'"
    return [*timed, differs, Row(case="forward", candidate="absent", status=Status.missing, note=note)]


def printed(width: int, found: list[Row], file: io.StringIO | None = None) -> str:
    file = io.StringIO() if file is None else file
    ours = Candidate(name="", run=lambda: 0, difference=lambda _: 0.0, tolerance=0.0, unit="")
    setting = "float32, batch 1, H = 16, P = 128, N = 128, T = 32,768, every head its own B and C, cpu"
    case = Case("forward", setting, ours, [], peak=MachinePeak(threads=1))
    print_case(Console(width=width, file=file), case, found)
    return file.getvalue()


def test_a_wide_table_has_every_column_and_whole_names() -> None:
    text = printed(1000, rows())
    lines = text.splitlines()
    for name in NAMES:
        (line,) = (line for line in lines if line.startswith(name))
        assert all(cell in line for cell in ("123 ms", "3 x 3", "40 met", "75%", "103%", "8.6e-07 ≤ 2e-05"))
    assert "…" not in text
    assert "of the largest" in text
    assert max(map(len, lines)) < 160


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_table_is_whole_too(width: int) -> None:
    text = printed(width, rows())
    lines = text.splitlines()
    assert "…" not in text
    # commands are left to the terminal to fold
    assert all(len(line) <= width for line in lines if not line.startswith(("wrong:", "absent:")))
    words = text.split()
    for name in NAMES:
        assert all(word in words for word in name.split())
    assert "quartiles" not in text
    assert "largest difference: 8.6e-07 ≤ 2e-05 of the largest" in text
    assert all(cell in text for cell in ("123 ms", "40 met", "75%", "103%"))


def test_what_is_missing_or_differs_is_said_below() -> None:
    text = printed(80, rows())
    assert "wrong: differs by 1.0e-01 of the largest (at most 1e-06)" in text
    assert "absent: not installed: pip install 'ssm-lab[bench]'" in text


def test_several_units_are_in_the_cells() -> None:
    text = printed(1000, [*rows()[:1], *rows("standard errors")[1:2]])
    assert "8.6e-07 ≤ 2e-05 of the largest" in text
    assert "8.6e-07 ≤ 2e-05 standard errors" in text


@pytest.mark.parametrize("width", [80, 1000])
def test_findings_are_whole(width: int) -> None:
    name = "extra memory, forward and backward, 8,192 tokens, flash-linear-attention, naive chunks"
    note = "share: 12,345 MB at the highest, above 2,345 MB of inputs and outputs"
    console = Console(width=width, file=io.StringIO())
    report.print_findings(console, [Finding(name=name, value=12.3, unit="tokens", at_most=0.15, note=note)])
    text = console.file.getvalue()
    assert "…" not in text
    assert all(word in text.split() for word in (*name.split(), *note.split()))
    assert all(cell in text for cell in ("12.3 tokens", "at most 0.15 missed"))
