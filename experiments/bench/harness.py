"""Candidates in one process: first compared, then timed alternately.

Only candidates whose results agree with the case's reference are timed. They alternate, and each round begins with the
next one (A B C, B C A, ...), so that a slowdown of the machine, and what is left in caches, affects all of them alike.
Medians and ratios are reported.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lab.experiments.bench.rates import MachinePeak, Work, shares_of

# runs a call several times and returns the total seconds
Clock = Callable[[Callable[[], Any], int], float]


# calls of up to so many shortest repeats are preceded by one that is not timed
_WARMED_BELOW = 50


def wall_clock(run: Callable[[], Any], calls: int) -> float:
    """Seconds of `calls` consecutive calls, for work that is complete when a call returns."""
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - started


class Status(StrEnum):
    """Outcome of a candidate."""

    timed = "timed"
    differs = "differs"
    failed = "failed"
    missing = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to compute the result of a case.

    Attributes:
        name: its name in the table.
        run: the timed call; returns the result.
        difference: distance of a result from the case's reference.
        tolerance: the largest difference that counts as agreement.
        unit: of the difference, such as "relative" or "standard errors".
        required_ratio: required minimum of its time over ours; None without a requirement.
        work: what a call has to do, for shares of the machine's rates; None if not counted.
    """

    name: str
    run: Callable[[], Any]
    difference: Callable[[Any], float]
    tolerance: float
    unit: str
    required_ratio: float | None = None
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A candidate that is not installed.

    Attributes:
        name: its name in the table.
        hint: the command that installs it.
    """

    name: str
    hint: str


@dataclass(frozen=True, slots=True)
class Case:
    """One problem with several candidates that solve it.

    Attributes:
        name: short and stable, a key in the result file.
        setting: sizes, precision, and the comparison, in a sentence.
        ours: the candidate to which all ratios refer.
        others: in the order of the table.
        peak: rates of the machine, measured in the same run, to which shares refer; None without shares.
        budget_s: time for all repeats of one candidate; None for the benchmark's default.
        is_brief: whether it is printed as one line: one of many sizes, which a figure shows together.
        is_warm: whether everything has been compiled and called before: a slow first call of ours then counts, too.
        clock: measures times.
    """

    name: str
    setting: str
    ours: Candidate
    others: Sequence[Candidate | Missing]
    peak: MachinePeak | None = None
    budget_s: float | None = None
    is_brief: bool = False
    is_warm: bool = False
    clock: Clock = wall_clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Measurements of one candidate. Times are in wall-clock seconds per call.

    Attributes:
        times_s: one entry per repeat; empty unless the status is `timed`.
        calls_per_repeat: number of calls averaged in a repeat, for short calls.
        processor_share: processor time over wall time while it ran; on one core, a value below 1 means that the machine
            was busy with something else.
        ratio: median time over our median time.
        work: what a call has to do.
        executed_share: operations per second over the machine's peak, counted as this implementation executes them.
        peak_share: the same, counted as in the paper.
        streaming_share: the time that streaming its bytes takes over the median time.
        note: the failure, or the command that installs what is missing.
    """

    case: str
    candidate: str
    status: Status
    difference: float | None = None
    tolerance: float | None = None
    unit: str = ""
    times_s: tuple[float, ...] = ()
    calls_per_repeat: int = 1
    processor_share: float | None = None
    ratio: float | None = None
    required_ratio: float | None = None
    work: Work | None = None
    executed_share: float | None = None
    peak_share: float | None = None
    streaming_share: float | None = None
    note: str = ""

    @property
    def median_s(self) -> float | None:
        """The median of `times_s`."""
        return statistics.median(self.times_s) if self.times_s else None

    @property
    def quartiles_s(self) -> tuple[float, float] | None:
        """The quartiles of `times_s`."""
        if not self.times_s:
            return None
        if len(self.times_s) == 1:
            return self.times_s[0], self.times_s[0]
        lower, _, upper = statistics.quantiles(self.times_s, n=4, method="inclusive")
        return lower, upper

    @property
    def is_met(self) -> bool | None:
        """Whether the required ratio was reached; None without a requirement or a time."""
        if self.required_ratio is None or self.ratio is None:
            return None
        return self.ratio >= self.required_ratio


@dataclass(frozen=True, slots=True)
class Result:
    """Results of a case, without its data.

    Attributes:
        name: of the case.
        setting: of the case.
        rows: one for each candidate, ours first.
        other_cores: processor time of all other processes over wall time, while the case was measured.
    """

    name: str
    setting: str
    rows: Sequence[Row]
    other_cores: float


@dataclass(slots=True)
class _Timing:
    candidate: Candidate
    difference: float
    # a slow candidate takes part only in every `stride`-th round; 0: in none, since its first call is used
    stride: int
    calls: int
    is_warmed: bool
    times_s: list[float]
    processor_s: float


def measure(
    case: Case,
    *,
    repeats: int,
    budget_s: float,
    shortest_repeat_s: float,
    on_round: Callable[[int], None] | None = None,
) -> list[Row]:
    """Compare all candidates of a case with its reference, then time those that agree, alternately.

    Args:
        case: the case.
        repeats: rounds; a candidate takes part in fewer, at least one, if they would take more than `budget_s`.
        budget_s: time for all repeats of one candidate, unless the case has its own. If the first call of a peer takes
            longer, it is the only one.
        shortest_repeat_s: shorter calls are repeated within one repeat until they take about this long in total.
        on_round: called with the number of each finished round.

    Returns:
        One row for each candidate, ours first.
    """
    budget_s = budget_s if case.budget_s is None else case.budget_s
    found: list[Row | _Timing] = []
    for candidate in (case.ours, *case.others):
        if isinstance(candidate, Missing):
            note = f"not installed: {candidate.hint}"
            found.append(Row(case=case.name, candidate=candidate.name, status=Status.missing, note=note))
        else:
            found.append(_compare(case, candidate, repeats, budget_s, shortest_repeat_s))
    timings = [entry for entry in found if isinstance(entry, _Timing)]
    for turn in range(repeats):
        gc.collect()
        first = turn % len(timings) if timings else 0
        for timing in (*timings[first:], *timings[:first]):
            if timing.stride and turn % timing.stride == 0:
                _time_once(timing, case.clock)
        if on_round is not None:
            on_round(turn + 1)
    ours = found[0]
    our_median_s = statistics.median(ours.times_s) if isinstance(ours, _Timing) else None
    return [entry if isinstance(entry, Row) else _row(case, entry, our_median_s) for entry in found]


def _compare(
    case: Case, candidate: Candidate, repeats: int, budget_s: float, shortest_repeat_s: float
) -> Row | _Timing:
    try:
        processor_started, started = time.process_time(), time.perf_counter()
        result = candidate.run()
        call_s, processor_s = time.perf_counter() - started, time.process_time() - processor_started
    except Exception as error:
        # a failing peer, for example of an unexpected version, must not end the benchmark
        if candidate is case.ours:
            raise
        note = f"{type(error).__name__}: {error}"
        return Row(case=case.name, candidate=candidate.name, status=Status.failed, note=note)
    difference = candidate.difference(result)
    # written so that NaN counts as a difference
    if not difference <= candidate.tolerance:
        return Row(
            case=case.name,
            candidate=candidate.name,
            status=Status.differs,
            difference=difference,
            tolerance=candidate.tolerance,
            unit=candidate.unit,
        )
    del result
    if call_s > budget_s and case.clock is wall_clock and (candidate is not case.ours or case.is_warm):
        # the overhead of a first call is negligible for such slow peers; ours may have compiled its loops for seconds
        return _Timing(
            candidate, difference, stride=0, calls=1, is_warmed=False, times_s=[call_s], processor_s=processor_s
        )
    if call_s < budget_s / 10 or candidate is case.ours or case.clock is not wall_clock:
        # the first call may have compiled something, or returned before the device was done: plan with a second
        call_s = case.clock(candidate.run, 1)
    affordable = max(1, min(repeats, int(budget_s / call_s)))
    calls = max(1, math.ceil(shortest_repeat_s / call_s))
    return _Timing(
        candidate,
        difference,
        stride=math.ceil(repeats / affordable),
        calls=calls,
        is_warmed=call_s < _WARMED_BELOW * shortest_repeat_s,
        times_s=[],
        processor_s=0.0,
    )


def _time_once(timing: _Timing, clock: Clock) -> None:
    if timing.is_warmed:
        # caches and threads in the state of consecutive calls, not in that left by another candidate or by a collection
        timing.candidate.run()
    processor_started = time.process_time()
    timing.times_s.append(clock(timing.candidate.run, timing.calls) / timing.calls)
    timing.processor_s += time.process_time() - processor_started


def _row(case: Case, timing: _Timing, our_median_s: float | None) -> Row:
    candidate = timing.candidate
    median_s = statistics.median(timing.times_s)
    shares = shares_of(candidate.work, median_s, case.peak)
    return Row(
        case=case.name,
        candidate=candidate.name,
        status=Status.timed,
        difference=timing.difference,
        tolerance=candidate.tolerance,
        unit=candidate.unit,
        times_s=tuple(timing.times_s),
        calls_per_repeat=timing.calls,
        processor_share=timing.processor_s / (sum(timing.times_s) * timing.calls),
        ratio=None if our_median_s is None else median_s / our_median_s,
        required_ratio=candidate.required_ratio,
        work=candidate.work,
        executed_share=shares.executed,
        peak_share=shares.paper,
        streaming_share=shares.streaming,
    )
