"""The side-by-side timer: who is compared, who is timed, in which order, and what is printed and written."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lab.core.errors import InputError, RunError
from lab.experiments.bench import harness, report
from lab.experiments.bench.case_table import format_seconds, print_case
from lab.experiments.bench.harness import Candidate, Case, Missing, Result, Row, Status, measure, wall_clock
from lab.experiments.bench.machine import describe
from lab.experiments.bench.rates import MachinePeak, Work
from lab.experiments.bench.run import main

MISSING = Missing("absent", "pip install 'ssm-lab[bench]'")


def candidate(
    name: str, run: Callable[[], float], *, required_ratio: float | None = None, work: Work | None = None
) -> Candidate:
    return Candidate(
        name=name,
        run=run,
        difference=lambda result: abs(result - 1.0),
        tolerance=1e-6,
        unit="absolute",
        required_ratio=required_ratio,
        work=work,
    )


def takes(seconds: float) -> Callable[[], float]:
    """A call that `told_clock` takes to last so long."""

    def run() -> float:
        return 1.0

    run.seconds = seconds
    return run


def told_clock(run: Callable[[], float], calls: int) -> float:
    run()
    return run.seconds * calls


def busy(seconds: float) -> Callable[[], float]:
    def run() -> float:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return 1.0

    return run


def measured(case: Case, *, repeats: int = 3, budget_s: float = 10.0, shortest_repeat_s: float = 0.0) -> list[Row]:
    return measure(case, repeats=repeats, budget_s=budget_s, shortest_repeat_s=shortest_repeat_s)


def printed(case: Case, rows: list[Row]) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_case(console, case, rows)
    console.file.close()
    return console.export_text()


def test_candidates_alternate() -> None:
    calls: list[str] = []

    def noted(name: str) -> Candidate:
        return candidate(name, lambda: calls.append(name) or 1.0)

    measured(Case("order", "", noted("a"), [noted("b"), noted("c")]), repeats=4)
    comparison, timing = calls[: -4 * 3], calls[-4 * 3 :]
    assert "".join(timing) == "abc" + "bca" + "cab" + "abc"
    # the first call is compared, the second plans the repeats
    assert comparison == ["a", "a", "b", "b", "c", "c"]


def test_a_candidate_with_another_result_is_never_timed() -> None:
    calls = []
    wrong = candidate("wrong", lambda: calls.append(1) or 1.1)
    case = Case("gate", "", candidate("ours", lambda: 1.0), [wrong])
    rows = measured(case)
    assert len(calls) == 1
    assert rows[1].status is Status.differs
    assert rows[1].median_s is None
    assert rows[1].ratio is None
    assert rows[1].difference == pytest.approx(0.1)
    assert "differs by 1.0e-01 absolute (at most 1e-06)" in printed(case, rows)


def test_not_a_number_counts_as_another_result() -> None:
    rows = measured(Case("gate", "", candidate("ours", lambda: 1.0), [candidate("nan", lambda: math.nan)]))
    assert rows[1].status is Status.differs


def test_no_ratio_without_a_time_of_ours() -> None:
    case = Case("gate", "", candidate("ours", lambda: 2.0), [candidate("right", lambda: 1.0, required_ratio=2.0)])
    rows = measured(case)
    assert rows[0].status is Status.differs
    assert rows[1].status is Status.timed
    assert rows[1].ratio is None
    assert rows[1].is_met is None


def test_missing_candidates_are_listed_with_their_cure() -> None:
    case = Case("missing", "", candidate("ours", lambda: 1.0), [MISSING])
    rows = measured(case)
    assert rows[1].status is Status.missing
    assert "not installed: pip install 'ssm-lab[bench]'" in printed(case, rows)


def test_a_failing_peer_is_reported_and_ours_is_not_excused() -> None:
    def fail() -> float:
        raise RuntimeError("no such option")

    case = Case("failure", "", candidate("ours", lambda: 1.0), [candidate("peer", fail)])
    rows = measured(case)
    assert rows[1].status is Status.failed
    assert "failed: RuntimeError: no such option" in printed(case, rows)
    with pytest.raises(RuntimeError, match="no such option"):
        measured(Case("failure", "", candidate("ours", fail), []))


def test_ratios_refer_to_our_median_and_are_judged() -> None:
    peers = [candidate("peer", takes(0.03), required_ratio=1.5), candidate("fast", takes(0.001), required_ratio=1.5)]
    rows = measured(Case("ratio", "", candidate("ours", takes(0.01)), peers, clock=told_clock))
    assert rows[0].ratio == 1.0
    assert rows[1].ratio == pytest.approx(3.0)
    assert rows[1].is_met is True
    assert rows[2].ratio == pytest.approx(0.1)
    assert rows[2].is_met is False


def test_a_slow_candidate_is_repeated_less_often() -> None:
    case = Case("slow", "", candidate("ours", takes(0.001)), [candidate("slow", takes(0.02))], clock=told_clock)
    rows = measured(case, repeats=6, budget_s=0.041)
    assert len(rows[0].times_s) == 6
    assert len(rows[1].times_s) == 2


def test_a_candidate_beyond_the_budget_is_still_timed_once() -> None:
    case = Case("slow", "", candidate("ours", takes(100.0)), [], budget_s=1.0, clock=told_clock)
    assert measured(case, repeats=6)[0].times_s == (100.0,)


def test_a_first_call_of_a_peer_beyond_the_budget_is_the_only_one() -> None:
    calls = []

    def slow() -> float:
        calls.append(1)
        return busy(0.01)()

    _, row = measured(Case("slow", "", candidate("ours", busy(0.0)), [candidate("slow", slow)]), budget_s=0.001)
    assert len(calls) == 1
    assert len(row.times_s) == 1
    assert row.times_s[0] >= 0.01


def test_our_first_call_may_build_something_and_is_never_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, now = iter([0.05]), 0.0

    def builds_first() -> float:
        nonlocal now
        now += next(seconds, 0.001)
        return 1.0

    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: now, process_time=lambda: now))
    (row,) = measured(Case("built", "", candidate("ours", builds_first), []), budget_s=0.04)
    assert row.times_s == pytest.approx((0.001, 0.001, 0.001))


def test_short_calls_are_timed_several_at_once() -> None:
    case = Case("short", "", candidate("ours", takes(0.001)), [], clock=told_clock)
    rows = measured(case, repeats=2, shortest_repeat_s=0.0045)
    assert rows[0].calls_per_repeat == 5
    # the time of one call, not of all
    assert rows[0].median_s == pytest.approx(0.001)


def test_the_wall_clock_takes_all_calls() -> None:
    assert wall_clock(busy(0.002), 3) >= 0.006


PEAK = MachinePeak(
    threads=1, flops_per_s={"float32": 1000.0}, read_bytes_per_s=100.0, update_bytes_per_s=50.0, streamed_bytes=1
)


def test_shares_refer_to_the_rates_of_the_machine() -> None:
    case = Case(
        "peak",
        "",
        candidate("ours", takes(0.02), work=Work(flops=5.0, executed_flops=4.0)),
        [
            candidate("uncounted", takes(0.001)),
            candidate("another precision", takes(0.001), work=Work(dtype="bfloat16", flops=5.0)),
            candidate("streaming", takes(0.2), work=Work(read_bytes=4.0, updated_bytes=3.0)),
        ],
        peak=PEAK,
        clock=told_clock,
    )
    rows = measured(case)
    ours, uncounted, other, streaming = rows
    # 250 and 200 operations a second against 1000
    assert (ours.peak_share, ours.executed_share) == pytest.approx((0.25, 0.2))
    assert ours.streaming_share is None
    assert (uncounted.peak_share, uncounted.executed_share, uncounted.streaming_share) == (None, None, None)
    assert (other.peak_share, other.executed_share) == (None, None)
    # 4 / 100 s and 3 / 50 s in 0.2 s
    assert streaming.streaming_share == pytest.approx(0.5)
    text = printed(case, rows)
    assert all(share in text for share in ("25%", "20%", "50%"))


def test_without_rates_there_are_no_shares() -> None:
    ours = candidate("ours", takes(0.01), work=Work(flops=5.0, executed_flops=4.0, read_bytes=1.0))
    for peak in (None, MachinePeak(threads=1, why_not="no C++ compiler was found")):
        case = Case("peak", "", ours, [], peak=peak, clock=told_clock)
        rows = measured(case)
        assert (rows[0].peak_share, rows[0].executed_share, rows[0].streaming_share) == (None, None, None)
        assert "%" not in printed(case, rows)


def test_a_case_has_a_budget_of_its_own() -> None:
    case = Case("own", "", candidate("ours", takes(7.0)), [], budget_s=14.0, clock=told_clock)
    assert measured(case, repeats=6, budget_s=1e6)[0].times_s == (7.0, 7.0)


def test_one_of_many_sizes_is_a_line() -> None:
    case = Case(
        "64 tokens",
        "",
        candidate("ours", takes(0.002)),
        [candidate("wrong", lambda: 2.0)],
        is_brief=True,
        clock=told_clock,
    )
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print_line(console, case, measured(case))
    console.file.close()
    assert console.export_text() == "64 tokens: ours 2 ms, wrong differs\n"


def test_a_line_has_ratios_and_shares() -> None:
    rows = [
        Row(case="", candidate="ours", status=Status.timed, times_s=(0.002,), ratio=1.0, executed_share=0.75),
        Row(case="", candidate="peer", status=Status.timed, times_s=(0.004,), ratio=2.0, streaming_share=0.4),
    ]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print_line(console, Case("64 tokens", "", candidate("ours", takes(0.0)), [], peak=PEAK), rows)
    console.file.close()
    expected = "64 tokens: ours 2 ms (75% of the FMA peak), peer 4 ms (2 x, 40% of streaming)\n"
    assert console.export_text() == expected


def test_quartiles_hold_the_middle_half() -> None:
    row = Row(case="", candidate="", status=Status.timed, times_s=(5.0, 1.0, 2.0, 4.0, 3.0))
    assert row.median_s == 3.0
    assert row.quartiles_s == (2.0, 4.0)
    assert Row(case="", candidate="", status=Status.timed, times_s=(7.0,)).quartiles_s == (7.0, 7.0)


def test_the_result_file_holds_all_times_and_the_machine(tmp_path: Path) -> None:
    case = Case("file", "a setting", candidate("ours", lambda: 1.0), [MISSING])
    rows = measured(case)
    path = tmp_path / "new" / "result.json"
    report.write_document(
        path,
        report.document(
            "hmm-risk", describe(["numpy", "no-such-distribution"]), [Result(case.name, case.setting, rows, 0.0)]
        ),
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["benchmark"] == "hmm-risk"
    assert content["machine"]["processor"]
    assert list(content["machine"]["versions"]) == ["numpy"]
    ours, absent = content["cases"][0]["rows"]
    assert ours["times_s"] == list(rows[0].times_s)
    assert ours["median_s"] == rows[0].median_s
    assert absent["status"] == "missing"
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(12.34, "12.3 s"), (0.5, "500 ms"), (0.00123, "1.23 ms"), (2e-6, "2 µs")]
)
def test_times_are_printed_in_the_unit_that_suits(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected


def test_an_unknown_benchmark_is_refused_by_name() -> None:
    with pytest.raises(
        InputError, match=r"benchmark 'hmm' does not exist; choose one of answer-speed, decode, delta-rule, distill"
    ):
        main("hmm")


def test_a_count_of_repeats_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="repeats=0 must be at least 1"):
        main("hmm-risk", repeats=0)


def test_a_result_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="file"):
        main("hmm-risk", json_path=tmp_path / "file" / "result.json")


@pytest.mark.slow
def test_the_command_compares_times_and_writes_without_any_peer(tmp_path: Path) -> None:
    # in a process of its own, as the user starts it: the number of threads is read when numpy loads
    path = tmp_path / "result.json"
    script = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec; peers = {'sklearn', 'hmmlearn', 'pomegranate', 'dynamax', 'jax'}\n"
        "u.find_spec = lambda name, package=None: None if name in peers else find(name, package)\n"
        f"sys.argv = ['lab', 'bench', 'hmm-risk', '--quick', '--repeats', '2', '--json', {str(path)!r}]\n"
        "from lab.cli.main import main; main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [case["name"].partition(",")[0].partition(" S")[0] for case in content["cases"]] == [
        "sweep",
        "every width",
        "filter",
        "filter",
    ]
    rows = [row for case in content["cases"] for row in case["rows"]]
    assert {row["status"] for row in rows} == {"timed", "missing"}
    # numpy's pseudo-inverse is always there to compare with
    assert sum(row["status"] == "timed" for row in rows) == 4 + 2
    assert content["machine"]["threads"]["cores"] == 1 or not hasattr(os, "sched_getaffinity")
    # in a file, names are whole
    assert "…" not in result.stdout
    for row in rows:
        assert any(line.startswith(row["candidate"]) for line in result.stdout.splitlines()), row["candidate"]
