"""Another implementation than torch's is chosen by a clear margin only, and once on a machine."""

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.products import choice, current
from lab.core.products.choice import (
    CELLS,
    LEAST_ROUNDS,
    MARGIN,
    ROW_CLASSES,
    BusyError,
    Cell,
    Size,
    decide,
    described,
    row_class,
)
from lab.core.products.implementations import NATIVE, ONEDNN, PACKED, TORCH, Implementation, Operation

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


# what the times of a restless clock fall by from call to call: whoever is timed second looks faster
FALL = 1.5


def restless(cells: Collection[Cell], lead: float) -> Clock:
    """A clock whose times for some cells are always clearly below those before; the challenger leads by a factor."""
    calls: Counter[tuple[Operation, Size]] = Counter()
    products = {(cell.operation, size) for cell in cells for size in cell.sizes}

    def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
        calls[operation, size] += 1
        restless = FALL ** -calls[operation, size] if (operation, size) in products else 1.0
        return restless if implementation is TORCH else restless / lead

    return seconds


def test_a_lead_within_the_noise_changes_nothing() -> None:
    found = decide([ONEDNN], restless(CELLS[3:4], lead=1.3))
    assert {cell for cell in CELLS if found[cell] is TORCH} == {CELLS[3]}


def test_a_lead_beyond_the_noise_counts_on_a_busy_machine() -> None:
    # from one round to the next, the times of each side fall twice, and once more from one side to the other
    far = FALL**6
    assert chosen(ONEDNN, seconds=restless(CELLS, lead=far)) == {ONEDNN}
    assert chosen(ONEDNN, seconds=restless(CELLS, lead=1 / far)) == {TORCH}


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_neighbours_that_never_rest_leave_a_choice(seed: int) -> None:
    noise = random.Random(seed)
    calls: Counter[object] = Counter()
    delay = 1.0

    def at(lead: float) -> Clock:
        def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
            nonlocal delay
            # a delay lasts for both sides of a round; no two rounds have times that are close
            calls[operation, size] += 1
            if calls[operation, size] % 2:
                delay = 2.0 ** (calls[operation, size] + noise.random())
            return delay * (1.0 if implementation is TORCH else 1 / lead)

        return seconds

    assert chosen(ONEDNN, seconds=at(1.3)) == {ONEDNN}
    calls.clear()
    assert chosen(ONEDNN, seconds=at(1.05)) == {TORCH}


def test_nothing_is_chosen_on_a_machine_that_is_too_busy() -> None:
    with pytest.raises(BusyError, match=CELLS[0].name):
        decide([ONEDNN], restless(CELLS, lead=1.3))


def test_a_measurement_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_LONGEST_S", -1.0)
    with pytest.raises(BusyError):
        choice.measured(torch.float32)


def test_a_challenger_has_to_win_at_both_ends_of_a_class_and_with_every_weight() -> None:
    def of_weights(implementation: Implementation, operation: Operation, size: Size) -> float:
        is_slow = size[1:] in (choice._WEIGHTS[1], *choice._HUGE_WEIGHTS)
        return 1.0 if implementation is TORCH or is_slow else 0.1

    def of_rows(implementation: Implementation, operation: Operation, size: Size) -> float:
        return 1.0 if implementation is TORCH or size.rows not in (1, 3, 9, 16) else 0.1

    assert chosen(ONEDNN, seconds=of_weights) == {TORCH}
    found = decide([ONEDNN], of_rows)
    assert {cell.row_class for cell in CELLS if found[cell] is ONEDNN} == {row_class(1), row_class(9)}


def test_huge_weights_are_chosen_for_by_themselves() -> None:
    def seconds(implementation: Implementation, operation: Operation, size: Size) -> float:
        return 0.1 if implementation is PACKED and size[1:] in choice._HUGE_WEIGHTS else 1.0

    found = decide([ONEDNN, PACKED], seconds)
    assert {cell for cell in CELLS if found[cell] is PACKED} == {cell for cell in CELLS if cell.is_huge}
    assert described(found).startswith("forward: torch; forward with a weight of 4,194,304 numbers or more: packed; ")
    state = current.State()
    state.take(torch.float32, found)
    few, many = choice.MANY - 1, choice.MANY
    for rows, numbers, expected in (
        (few, choice.HUGE, TORCH),
        (many, choice.HUGE - 1, TORCH),
        (many, choice.HUGE, PACKED),
        (10**6, choice.HUGE, PACKED),
    ):
        assert set(state.plan_of(torch.float32, rows, numbers)) == {expected}
    assert not state.differs(few)
    assert state.differs(many)


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
    monkeypatch.setattr(choice, "_HUGE_WEIGHTS", ((7, 4),))
    monkeypatch.setattr(choice, "_MANY_ROWS", 260)
    monkeypatch.setattr(choice, "CLOSE", 1000.0)
    state = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        table = choice.measured(torch.float32)
    assert table.keys() == set(CELLS)
    assert torch.random.get_rng_state().equal(state)
    assert torch.is_grad_enabled()
