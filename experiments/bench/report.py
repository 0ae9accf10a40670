"""The table of a benchmark on the terminal, and its result file."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lab.core.runs.atomic_files import write_atomically
from lab.experiments.bench.case_table import format_seconds
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Case, Result, Row
from lab.experiments.bench.rates import MachinePeak

# below this fraction of a core the median of wall times is unreliable
_QUIET_SHARE = 0.95
# of a console that is not a terminal: more than any table needs
_FILE_WIDTH = 1000


def new_console() -> Console:
    """Standard output; in a file or a pipe, lines are as long as they need to be, so that no name is cut or folded."""
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


def print_line(console: Console, case: Case, rows: Sequence[Row]) -> None:
    """One line for one of many cases: medians, ratios to ours, and shares."""
    parts = []
    for row in rows:
        if row.median_s is None:
            parts.append(f"{row.candidate} {row.status}")
        else:
            details = ", ".join(_details(case, row, is_ours=row is rows[0]))
            parts.append(f"{row.candidate} {format_seconds(row.median_s)}" + (f" ({details})" if details else ""))
    console.print(f"{case.name}: {', '.join(parts)}", markup=False, highlight=False)


def _details(case: Case, row: Row, *, is_ours: bool) -> Iterator[str]:
    if row.ratio is not None and not is_ours:
        yield f"{row.ratio:.3g} x"
    if row.streaming_share is not None:
        yield f"{row.streaming_share:.0%} of streaming"
    elif row.executed_share is not None and case.peak is not None:
        yield f"{row.executed_share:.0%} of the {case.peak.basis}"


def print_busy(console: Console, rows: Sequence[Row]) -> None:
    """A warning if something else took processor time from a benchmark on one core."""
    busy = [row.candidate for row in rows if row.processor_share is not None and row.processor_share < _QUIET_SHARE]
    if busy:
        console.print(f"[yellow]The machine was busy: less than {_QUIET_SHARE:.0%} of a core for {', '.join(busy)}.[/]")


def print_others(console: Console, results: Sequence[Result]) -> None:
    """A warning if something else took processor time from a benchmark on all cores."""
    busy = [result.other_cores for result in results if result.other_cores > 1 - _QUIET_SHARE]
    if busy:
        console.print(
            f"[yellow]The machine was busy during {len(busy)} of {len(results)} cases: other processes used up to "
            f"{max(busy):.2g} cores.[/]"
        )


def print_machine(console: Console, machine: dict[str, Any]) -> None:
    """A line that describes the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = ", ".join(f"{name}: {count}" for name, count in machine["threads"].items())
    accelerator = f"{machine['accelerator']}; " if machine["accelerator"] else ""
    console.print(f"{machine['processor']}; {accelerator}{machine['system']}; Python {machine['python']}; {versions}")
    console.print(f"threads ({threads}); candidates took turns, {machine['placement']}")


def print_threads(console: Console, machine: dict[str, Any]) -> None:
    """A warning if a library had more than one thread in a benchmark on one core."""
    if max(machine["threads"].values()) > 1:
        console.print("[yellow]A library had more than one thread: start the benchmark in a separate process.[/]")


def print_peak(console: Console, peak: MachinePeak) -> None:
    """The rates to which shares refer, and the products of libraries as shares of the peak."""
    rates = ", ".join(f"{dtype} {_per_second(rate, 'FLOP')}" for dtype, rate in peak.flops_per_s.items())
    if rates:
        console.print(f"{peak.basis} ({peak.threads} threads): {rates}", markup=False, highlight=False)
    if peak.read_bytes_per_s is not None and peak.update_bytes_per_s is not None:
        console.print(
            f"streaming {peak.streamed_bytes / 1e6:,.0f} MB: read {_per_second(peak.read_bytes_per_s, 'B')}, read and "
            f"written {_per_second(peak.update_bytes_per_s, 'B')}, both counted",
            markup=False,
            highlight=False,
        )
    for product in peak.products:
        what = f"{product.name}, {product.size:,} x {product.size:,}, float32"
        if product.flops_per_s is None:
            console.print(f"product of {what}: {product.note}", markup=False, highlight=False)
            continue
        of_peak = peak.flops_per_s.get("float32")
        share = "" if of_peak is None else f", {product.flops_per_s / of_peak:.0%} of the {peak.basis}"
        best = ", the best here" if product is peak.best_product else ""
        rate = _per_second(product.flops_per_s, "FLOP")
        console.print(f"product of {what}: {rate}{share}{best}", markup=False, highlight=False)
    if peak.why_not:
        console.print(f"[yellow]No shares of the {peak.basis} or of streaming:[/] {escape(peak.why_not)}")


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """The table of findings, how each was found below its name."""
    table = Table(title="[bold]findings[/]", title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("what", overflow="fold")
    for heading in ("found", "required"):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in findings:
        how = f"\n  [dim]{escape(finding.note)}[/]" if finding.note else ""
        table.add_row(f"{escape(finding.name)}{how}", _found(finding), _demand(finding))
    console.print(table)


def print_summary(console: Console, results: Sequence[Result], findings: Sequence[Finding]) -> None:
    """How many requirements were met, and which were missed."""
    judged = [row for result in results for row in result.rows if row.is_met is not None]
    missed = [row for row in judged if not row.is_met]
    judged_findings = [finding for finding in findings if finding.is_met is not None]
    missed_findings = [finding for finding in judged_findings if not finding.is_met]
    count, num_missed = len(judged) + len(judged_findings), len(missed) + len(missed_findings)
    console.print(f"requirements met: {count - num_missed} of {count} that could be measured")
    for row in missed:
        console.print(f"[red]missed:[/] {row.case}, {row.candidate}: {row.ratio:.3g} instead of {row.required_ratio:g}")
    for finding in missed_findings:
        console.print(f"[red]missed:[/] {escape(finding.name)}: {_found(finding)} instead of {_bounds(finding)}")


def _found(finding: Finding) -> str:
    return "not found" if finding.value is None else f"{finding.value:.3g} {finding.unit}".rstrip()


def _demand(finding: Finding) -> str:
    if finding.is_met is None:
        return _bounds(finding)
    return f"{_bounds(finding)} " + ("[green]met[/]" if finding.is_met else "[red]missed[/]")


def _bounds(finding: Finding) -> str:
    bounds = (("at least", finding.at_least), ("at most", finding.at_most))
    return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _per_second(rate: float, unit: str) -> str:
    return f"{rate / 1e9:.3g} G{unit}/s"


def document(
    benchmark: str,
    machine: dict[str, Any],
    results: Sequence[Result],
    conclusion: Conclusion | None = None,
) -> dict[str, Any]:
    """Everything in the tables, and the individual times, as plain data."""
    content: dict[str, Any] = {
        "benchmark": benchmark,
        "machine": machine,
        "cases": [
            {
                "name": result.name,
                "setting": result.setting,
                # JSON has no NaN
                "other_cores": result.other_cores if math.isfinite(result.other_cores) else None,
                "rows": [_plain(row) for row in result.rows],
            }
            for result in results
        ],
    }
    if conclusion is not None:
        content["findings"] = [asdict(finding) | {"is_met": finding.is_met} for finding in conclusion.findings]
        content |= conclusion.facts
    return content


def _plain(row: Row) -> dict[str, Any]:
    return asdict(row) | {"median_s": row.median_s, "quartiles_s": row.quartiles_s, "is_met": row.is_met}


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Write the result file atomically, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
