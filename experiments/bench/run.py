"""`lab bench NAME`: time our implementations beside others, one processor core, results compared before times."""

import importlib
from pathlib import Path

from rich.console import Console

from lab.core.errors import InputError
from lab.core.files import write_atomically
from lab.experiments.bench import report
from lab.experiments.bench.harness import Case, Row, Status, measure
from lab.experiments.bench.machine import describe, one_core

# The modules are loaded inside `one_core`: numpy, torch and jax read their number of threads when they load.
BENCHMARKS = {"hmm-risk": "lab.experiments.bench.hmm_risk"}

# A candidate of many seconds is repeated only as often as this allows.
_BUDGET_S = 16.0
# Shorter calls are timed several at once: the clock and the scheduler are good to some microseconds.
_SHORTEST_REPEAT_S = 0.01


def main(name: str, *, repeats: int = 9, quick: bool = False, json_path: Path | None = None) -> bool:
    """Run a benchmark and print one table a case.

    Args:
        name: one of `BENCHMARKS`.
        repeats: how often each candidate is timed, slow ones less often.
        quick: problems of a few milliseconds, to see that everything works.
        json_path: where to write the result file; None for none.

    Returns:
        Whether our own results agreed with their references in every case.

    Raises:
        InputError: if the benchmark does not exist or `repeats` is not positive.
        RunError: if the result file cannot be written.
    """
    if name not in BENCHMARKS:
        raise InputError(f"benchmark {name!r} does not exist; choose one of {', '.join(BENCHMARKS)}")
    if repeats < 1:
        raise InputError(f"repeats={repeats} must be at least 1")
    if json_path is not None:
        # a folder that cannot be written is refused now and not after minutes of work
        probe = json_path.with_name(f".{json_path.name}.probe")
        write_atomically(probe, "")
        probe.unlink()
    console = Console()
    results: list[tuple[Case, list[Row]]] = []
    with one_core():
        module = importlib.import_module(BENCHMARKS[name])
        for case in module.cases(quick=quick):
            with console.status(f"{case.name}: comparing, then timing"):
                rows = measure(case, repeats=repeats, budget_s=_BUDGET_S, shortest_repeat_s=_SHORTEST_REPEAT_S)
            report.print_case(console, case, rows)
            results.append((case, rows))
        machine = describe(module.DISTRIBUTIONS)
    report.print_machine(console, machine)
    report.print_summary(console, [rows for _, rows in results])
    if json_path is not None:
        report.write_json(json_path, report.document(name, machine, results))
        console.print(f"written: {json_path}")
    return all(rows[0].status is Status.timed for _, rows in results)
