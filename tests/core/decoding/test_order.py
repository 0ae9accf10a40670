"""The order of steps: what may overlap in time never touches what another thread writes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.decoding.instructions import Order
from lab.core.decoding.order import OrderOfSteps

Steps = list[tuple[set[int], set[int], int]]
STEPS = st.lists(st.tuples(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4), min_size=1), st.sampled_from([0, 2])))


def orders(steps: Steps) -> list[Order]:
    order = OrderOfSteps()
    return [order.of(read, written, tasks) for read, written, tasks in steps]


def test_a_layer_with_a_recurrence() -> None:
    stream, values, sizes, gates, heads = range(5)
    steps: Steps = [
        ({stream}, {values}, 0),
        ({stream}, {sizes}, 0),
        ({stream}, {gates}, 0),
        (set(), {values}, 2),
        ({sizes}, {values, heads}, 2),
        (set(), {heads, gates}, 2),
        ({heads}, {stream}, 0),
    ]
    begin, after, join = Order.any_time, Order.meeting, Order.joined
    assert orders(steps) == [begin, begin, begin, after, join, join, after]


def test_a_step_is_not_joined_over_another() -> None:
    # the third needs the tasks of the first, which other threads may do than those of the second
    assert orders([(set(), {0}, 2), (set(), {1}, 2), ({0}, {2}, 2)]) == [Order.any_time, Order.any_time, Order.meeting]


@settings(max_examples=50)
@given(STEPS)
def test_steps_that_may_overlap_have_nothing_to_do_with_each_other(steps: Steps) -> None:
    stages: list[list[tuple[set[int], set[int]]]] = []
    for (read, written, _), order in zip(steps, orders(steps), strict=True):
        if order is Order.meeting:
            stages = []
        if order is Order.joined:
            stages[-1].append((read, written))
        else:
            stages.append([(read, written)])
        touched = [(set().union(*(r for r, _ in stage)), set().union(*(w for _, w in stage))) for stage in stages]
        for number, (reads, writes) in enumerate(touched):
            for other_reads, other_writes in touched[:number]:
                assert not writes & (other_reads | other_writes)
                assert not reads & other_writes
