"""`lab bench NAME`: time our implementations against others in one process, after comparing results."""

import importlib
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from lab.core.errors import InputError
from lab.core.runs.atomic_files import refuse_no_file
from lab.experiments.bench import report
from lab.experiments.bench.case_table import print_case
from lab.experiments.bench.findings import Conclusion
from lab.experiments.bench.harness import Case, Result, Row, Status, measure
from lab.experiments.bench.machine import busy_seconds, describe, every_core, one_core, own_seconds


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark.

    Attributes:
        module: has `DISTRIBUTIONS`, whose versions are recorded, and `cases(quick=...)`, a generator that yields cases,
            is sent their rows, and returns a `Conclusion` or None. It is imported within `cores`, since numpy, torch
            and jax read their number of threads on import.
        cores: context that sets the cores to use.
        placement: the same in words.
        options: what it can be asked for; `cases` of a benchmark with some takes those given as `options=...`.
    """

    module: str
    cores: Callable[[], AbstractContextManager[None]]
    placement: str
    options: tuple[str, ...] = ()


_MODEL = ("teacher", "precision", "layers")
BENCHMARKS = {
    "answer-speed": Benchmark(
        "lab.experiments.bench.long_context.answers", every_core, "with a torch thread on each core", _MODEL
    ),
    "decode": Benchmark("lab.experiments.bench.decode", every_core, "with a torch thread on each core"),
    "delta-rule": Benchmark("lab.experiments.bench.delta_rule", every_core, "with a torch thread on each core"),
    "distill": Benchmark("lab.experiments.bench.distill", every_core, "with a torch thread on each core"),
    "hmm-risk": Benchmark("lab.experiments.bench.hmm_risk", one_core, "bound to one core where the system can do that"),
    "loader": Benchmark("lab.experiments.bench.loader", every_core, "with a torch thread on each core"),
    "long-context": Benchmark(
        "lab.experiments.bench.long_context.benchmark",
        every_core,
        "with a torch thread on each core",
        (*_MODEL, "lengths"),
    ),
    "probe": Benchmark("lab.experiments.bench.probe", one_core, "bound to one core where the system can do that"),
    "processes": Benchmark("lab.experiments.bench.processes", every_core, "with one thread in each process"),
    "products": Benchmark("lab.experiments.bench.products", every_core, "with a torch thread on each core"),
    "ssd": Benchmark("lab.experiments.bench.ssd", every_core, "with a torch thread on each core"),
    "train": Benchmark("lab.experiments.bench.train", every_core, "with a torch thread on each core"),
}

# Time limit for the repeats of a slow candidate.
_BUDGET_S = 16.0
# Shorter calls are timed several at once: clock and scheduler are accurate to a few microseconds.
_SHORTEST_REPEAT_S = 0.01


def main(
    name: str,
    *,
    repeats: int = 9,
    quick: bool = False,
    json_path: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> bool:
    """Run a benchmark and print one table or line per case.

    Args:
        name: one of `BENCHMARKS`.
        repeats: how often each candidate is timed, slow ones less often.
        quick: problems of a few milliseconds, to check that everything works.
        json_path: where to write the result file, with figures next to it; None for none.
        options: of the benchmark, as they were typed.

    Returns:
        Whether our own results agreed with their references in every case.

    Raises:
        InputError: if the benchmark does not exist or has no such option, or `repeats` is not positive.
        RunError: if the result file cannot be written.
    """
    if name not in BENCHMARKS:
        raise InputError(f"benchmark {name!r} does not exist; choose one of {', '.join(BENCHMARKS)}")
    if repeats < 1:
        raise InputError(f"repeats={repeats} must be at least 1")
    asked = options or {}
    for option in asked:
        if option not in BENCHMARKS[name].options:
            able = [other for other, benchmark in BENCHMARKS.items() if option in benchmark.options]
            raise InputError(f"--{option} is for lab bench {' and '.join(able)}; leave it out")
    if json_path is not None:
        # before minutes of work
        refuse_no_file(json_path)
    console = report.new_console()
    benchmark = BENCHMARKS[name]
    with benchmark.cores():
        module = importlib.import_module(benchmark.module)
        more = {"options": asked} if benchmark.options else {}
        results, conclusion = _run(console, benchmark, module.cases(quick=quick, **more), repeats)
        machine = describe(module.DISTRIBUTIONS) | {"placement": benchmark.placement}
    report.print_machine(console, machine)
    if conclusion is not None and conclusion.peak is not None:
        machine["peak"] = asdict(conclusion.peak)
        report.print_peak(console, conclusion.peak)
    if benchmark.cores is one_core:
        report.print_threads(console, machine)
    else:
        report.print_others(console, results)
    if conclusion is not None:
        report.print_findings(console, conclusion.findings)
    report.print_summary(console, results, conclusion.findings if conclusion else [])
    if json_path is not None:
        report.write_document(json_path, report.document(name, machine, results, conclusion))
        if conclusion is not None and conclusion.draw is not None:
            conclusion.draw(json_path.parent, json_path.stem)
        console.print(f"written: {json_path}", markup=False, highlight=False, soft_wrap=True)
    return all(result.rows[0].status is Status.timed for result in results)


def _run(
    console: Console, benchmark: Benchmark, cases: Generator[Case, list[Row] | None, Conclusion | None], repeats: int
) -> tuple[list[Result], Conclusion | None]:
    results: list[Result] = []
    rows = None
    while True:
        try:
            with console.status("preparing"):
                case = cases.send(rows)
        except StopIteration as end:
            return results, end.value
        started, busy_s = time.perf_counter(), busy_seconds() - own_seconds()
        with console.status(f"{case.name}: comparing, then timing"):
            rows = measure(case, repeats=repeats, budget_s=_BUDGET_S, shortest_repeat_s=_SHORTEST_REPEAT_S)
        other_cores = (busy_seconds() - own_seconds() - busy_s) / (time.perf_counter() - started)
        if case.is_brief:
            report.print_line(console, case, rows)
        else:
            print_case(console, case, rows)
        if benchmark.cores is one_core:
            report.print_busy(console, rows)
        results.append(Result(case.name, case.setting, rows, other_cores))
        # free its data before the next case
        del case
