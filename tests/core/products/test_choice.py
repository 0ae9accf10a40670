"""Another implementation than torch's is chosen by a clear margin only, and once on a machine."""

import multiprocessing
import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.core.errors import BackendError, ConfigError
from lab.core.products import cache, choice, current
from lab.core.products.choice import (
    CELLS,
    CLOSE,
    LEAST_ROUNDS,
    MARGIN,
    ROW_CLASSES,
    BusyError,
    Cell,
    Size,
    decide,
    described,
    only,
    row_class,
)
from lab.core.products.implementations import IMPLEMENTATIONS, NATIVE, ONEDNN, TORCH, Implementation, Operation
from lab.core.products.linear import Linear

CPU = torch.device("cpu")
PRODUCTS = [size for cell in CELLS for size in cell.sizes]
Clock = Callable[[Implementation, Operation, Size], float]


def clock(times: Mapping[Implementation, float], *, disturbed: int | None = None) -> Clock:
    """A clock that shows fixed times, but for one call by number."""
    calls = -1

    def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
        nonlocal calls
        calls += 1
        return times[implementation] * (2 if calls == disturbed else 1)

    return seconds


def chosen(*challengers: Implementation, seconds: Clock) -> set[Implementation]:
    return set(decide(challengers, seconds).values())


def test_a_challenger_needs_the_margin() -> None:
    assert chosen(ONEDNN, seconds=clock({TORCH: 1.0, ONEDNN: 0.999 / (1 + MARGIN)})) == {ONEDNN}
    assert chosen(ONEDNN, seconds=clock({TORCH: 1.0, ONEDNN: 1.001 / (1 + MARGIN)})) == {TORCH}


@pytest.mark.parametrize("disturbed", [0, 1, 2 * len(PRODUCTS) + 1])
def test_a_disturbed_round_changes_nothing(disturbed: int) -> None:
    # the challenger's time is every second one
    assert set(decide([ONEDNN], clock({TORCH: 1.0, ONEDNN: 0.8}, disturbed=disturbed)).values()) == {ONEDNN}
    assert set(decide([ONEDNN], clock({TORCH: 1.0, ONEDNN: 0.95}, disturbed=disturbed)).values()) == {TORCH}


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_choice_does_not_depend_on_noise(seed: int) -> None:
    noise = random.Random(seed)

    def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
        # every eighth product is disturbed, some by far
        delay = noise.expovariate(1) if noise.random() < 1 / 8 else 0.0
        return (1.0 if implementation is TORCH else 0.87) * (1 + delay)

    assert set(decide([ONEDNN], seconds).values()) == {ONEDNN}


def restless(cells: Collection[Cell], lead: float) -> Clock:
    """A clock whose times for some cells are always clearly below those before; the challenger leads by a factor."""
    calls = 0
    products = {(cell.operation, size) for cell in cells for size in cell.sizes}

    def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
        nonlocal calls
        calls += 1
        restless = (1 + 2 * CLOSE) ** -calls if (operation, size) in products else 1.0
        return restless if implementation is TORCH else restless / lead

    return seconds


def test_a_lead_within_the_noise_changes_nothing() -> None:
    found = decide([ONEDNN], restless(CELLS[3:4], lead=1.3))
    assert {cell for cell in CELLS if found[cell] is TORCH} == {CELLS[3]}


def test_a_lead_beyond_the_noise_counts_on_a_busy_machine() -> None:
    # between two rounds, times fall by the noise of both sides of all products
    far = (1 + 2 * CLOSE) ** (8 * len(PRODUCTS))
    assert chosen(ONEDNN, seconds=restless(CELLS, lead=far)) == {ONEDNN}
    assert chosen(ONEDNN, seconds=restless(CELLS, lead=1 / far)) == {TORCH}


def test_nothing_is_chosen_on_a_machine_that_is_too_busy() -> None:
    with pytest.raises(BusyError, match=CELLS[0].name):
        decide([ONEDNN], restless(CELLS, lead=1.3))


def test_a_measurement_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_LONGEST_S", -1.0)
    with pytest.raises(BusyError):
        choice.measured(torch.float32)


def test_a_challenger_has_to_win_at_both_ends_of_a_class_and_with_every_weight() -> None:
    def of_weights(implementation: Implementation, operation: Operation, size: Size) -> float:
        return 1.0 if implementation is TORCH or size[1:] == choice._WEIGHTS[1] else 0.1

    def of_rows(implementation: Implementation, operation: Operation, size: Size) -> float:
        return 1.0 if implementation is TORCH or size.rows not in (1, 3, 9, 16) else 0.1

    assert chosen(ONEDNN, seconds=of_weights) == {TORCH}
    found = decide([ONEDNN], of_rows)
    assert {cell.row_class for cell in CELLS if found[cell] is ONEDNN} == {row_class(1), row_class(9)}


def test_a_later_challenger_has_to_beat_the_one_before() -> None:
    slightly = decide([ONEDNN, NATIVE], clock({TORCH: 1.0, ONEDNN: 0.5, NATIVE: 0.48}))
    assert set(slightly.values()) == {ONEDNN}
    clearly = decide([ONEDNN, NATIVE], clock({TORCH: 1.0, ONEDNN: 0.5, NATIVE: 0.3}))
    native = {cell for cell, implementation in clearly.items() if implementation is NATIVE}
    assert native == {Cell(Operation.forward, row_class(rows)) for rows in range(1, 17)}


def test_a_challenger_that_lost_is_not_timed_again() -> None:
    timed = []

    def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
        timed.append((operation, size))
        return 1.0

    decide([ONEDNN], seconds)
    first = [(cell.operation, cell.sizes[0]) for cell in CELLS]
    assert [timed.count(each) for each in first] == [2 * LEAST_ROUNDS] * len(CELLS)


def test_classes_of_rows() -> None:
    for index, (first, last) in enumerate(ROW_CLASSES):
        assert row_class(first) == row_class(first + 9000 if last is None else last) == index


def test_a_measurement_gives_a_table_and_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_WEIGHTS", ((3, 5), (5, 3)))
    monkeypatch.setattr(choice, "_MANY_ROWS", 260)
    monkeypatch.setattr(choice, "CLOSE", 1000.0)
    state = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        table = choice.measured(torch.float32)
    assert table.keys() == set(CELLS)
    assert torch.random.get_rng_state().equal(state)
    assert torch.is_grad_enabled()


class Measured:
    """A measurement that takes no time and is counted."""

    def __init__(self, implementation: Implementation) -> None:
        self.count = 0
        self._implementation = implementation

    def __call__(self, dtype: torch.dtype) -> dict[Cell, Implementation]:
        self.count += 1
        return only(self._implementation)


def recalled(measured: Measured) -> dict[Cell, Implementation]:
    return dict(cache.recall_or_measure(torch.float32, 1, measured))


needs_onednn = pytest.mark.skipif(ONEDNN.why_not(CPU, torch.float32) is not None, reason="torch has no oneDNN here")


@needs_onednn
def test_a_machine_measures_once(fresh_cache: Path) -> None:
    assert cache.recall(torch.float32, 1) is None
    measured = Measured(ONEDNN)
    assert recalled(measured) == recalled(measured) == only(ONEDNN)
    assert measured.count == 1
    assert cache.recall(torch.float32, 1) == only(ONEDNN)
    # of another dtype or number of threads, nothing is known
    assert cache.recall(torch.bfloat16, 1) is None
    assert cache.recall(torch.float32, 2) is None


@needs_onednn
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"forward, 1 row": "torch"}',
        "{" + ", ".join(f'"{cell.name}": "other"' for cell in CELLS) + "}",
        "{" + ", ".join(f'"{cell.name}": "native"' for cell in CELLS) + "}",
    ],
)
def test_a_damaged_table_is_measured_again(fresh_cache: Path, content: str) -> None:
    recalled(Measured(ONEDNN))
    (path,) = fresh_cache.glob("*.json")
    path.write_text(content)
    measured = Measured(TORCH)
    assert cache.recall(torch.float32, 1) is None
    assert recalled(measured) == recalled(measured) == only(TORCH)
    assert measured.count == 1


def test_a_table_of_another_processor_or_torch_is_not_used(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recalled(Measured(TORCH))
    for module, name in ((cache, "processor_name"), (cache, "processor_features"), (torch.__config__, "show")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, lambda: "another")
            assert cache.recall(torch.float32, 1) is None
    assert cache.recall(torch.float32, 1) is not None


def test_a_table_that_cannot_be_written_is_measured_by_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    measured = Measured(TORCH)
    assert recalled(measured) == only(TORCH)
    assert measured.count == 1


def test_on_a_busy_machine_torch_computes_and_nothing_is_written(
    fresh_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(dtype: torch.dtype) -> dict[Cell, Implementation]:
        raise BusyError

    assert cache.recall_or_measure(torch.float32, 1, busy) == only(TORCH)
    assert "too busy" in capsys.readouterr().err
    assert cache.recall(torch.float32, 1) is None


def one_of_two(number: int, barrier: "multiprocessing.synchronize.Barrier", answers: "multiprocessing.Queue") -> None:
    measured = Measured((TORCH, ONEDNN)[number])
    barrier.wait()
    table = cache.recall_or_measure(torch.float32, 1, measured)
    answers.put((measured.count, table[CELLS[0]].name))


@needs_onednn
def test_processes_that_start_together_agree(fresh_cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=one_of_two, args=(number, barrier, answers)) for number in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(count for count, _ in found) == [0, 1]
    assert len({name for _, name in found}) == 1


@needs_onednn
def test_only_large_products_are_chosen_for(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(ONEDNN)
    monkeypatch.setattr(current, "recall_or_measure", cache.recall_or_measure)
    monkeypatch.setattr(current, "measured", measured)
    small, large = Linear(16, 16), Linear(512, 512)
    with current.using("torch"):
        assert current.settle(large, [torch.float32]) == {"float32": "torch everywhere"}
    with current.using("auto"):
        assert current.settle(small, [torch.float32]) == {"float32": "torch everywhere"}
        assert measured.count == 0
        assert current.STATE.is_torch
        both = nn.Sequential(small, large)
        for _ in range(2):
            assert current.settle(both, [torch.float32]) == {"float32": described(only(ONEDNN))}
        assert measured.count == 1
        assert not current.STATE.is_torch
        assert large(torch.ones(2, 512)).grad_fn.name() == "ViewBackward0"
        assert small(torch.ones(2, 16)).grad_fn.name() == "AddmmBackward0"
        # nothing is known of another number of threads, nor of another dtype
        assert large.double()(torch.ones(2, 512, dtype=torch.float64)).grad_fn.name() == "AddmmBackward0"
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(before + 1)
            assert large.float()(torch.ones(2, 512)).grad_fn.name() == "AddmmBackward0"
        finally:
            torch.set_num_threads(before)
    assert current.STATE.is_torch


@needs_onednn
def test_a_run_that_goes_on_computes_as_it_began(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(ONEDNN)
    monkeypatch.setattr(current, "recall_or_measure", cache.recall_or_measure)
    monkeypatch.setattr(current, "measured", measured)
    large = Linear(512, 512)
    with current.using("auto"):
        # begun while the machine was too busy for a choice
        assert current.settle(large, [torch.float32], {"float32": "torch everywhere"}) == {
            "float32": "torch everywhere"
        }
        assert measured.count == 0
        for damaged in ({}, {"float32": "mkl"}, {"float32": None}, {"bfloat16": "torch everywhere"}):
            assert current.settle(large, [torch.float32], damaged) == {"float32": described(only(ONEDNN))}
        assert measured.count == 1


@needs_onednn
def test_a_class_of_rows_in_which_torch_is_fastest_keeps_its_graph() -> None:
    table = {cell: ONEDNN if cell.row_class == row_class(100) else TORCH for cell in CELLS}
    with current.using("auto"):
        current.STATE.take(torch.float32, table)
        large = Linear(512, 512)
        names = {rows: large(torch.ones(rows, 512)).grad_fn.name() for rows in (1, 16, 17, 255, 256)}
        with torch.autocast("cpu", torch.bfloat16):
            assert large(torch.ones(100, 512)).grad_fn.name() == "AddmmBackward0"
    assert names == {rows: "ViewBackward0" if rows in (17, 255) else "AddmmBackward0" for rows in names}


@needs_onednn
def test_a_name_asks_for_small_products_too() -> None:
    assert current.settle(Linear(4, 4), [torch.float32]) == {"float32": "torch everywhere"}
    with current.using("onednn"):
        assert current.settle(Linear(4, 4), [torch.float32]) == {"float32": described(only(ONEDNN))}
        assert Linear(4, 4)(torch.ones(2, 4)).grad_fn.name() == "ViewBackward0"
    assert current.STATE.is_torch


def test_what_was_asked_for_and_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="products=mkl: choose from auto, torch, onednn, native"):
        current.refuse_unknown("mkl")
    with pytest.raises(BackendError, match=r"products=onednn cannot run on cpu: .*not float64; use products=auto"):
        current.refuse("onednn", CPU, [torch.float32, torch.float64])
    with pytest.raises(BackendError, match="products=native cannot run on cuda: it needs a CPU"):
        current.refuse("native", torch.device("cuda"), [torch.float32])
    for name in current.NAMES:
        current.refuse_unknown(name)
    current.refuse("auto", torch.device("cuda"), [torch.float16])
    assert set(IMPLEMENTATIONS) < set(current.NAMES)
