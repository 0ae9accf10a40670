"""A stream goes on exactly where it stood, in an order of the seed alone, and leaves out what cannot be used."""

import dataclasses
import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.core.data.bad_samples import OnBadSample, Reason
from lab.core.data.batch import Batch, count_right, to_tensors
from lab.core.data.picture_format import Colours
from lab.core.data.sample import Answer, BatchArrays, Sample, pack, pad
from lab.core.data.stream import Stream
from lab.core.errors import CheckpointError, InputError
from reference.numbered import Endless, Finite, sample


def stream(source: Endless, *, seed: int = 5, batch_size: int = 4, max_length: int = 5) -> Stream:
    return Stream(source, batch_size=batch_size, max_length=max_length, seed=seed)


def ids(batch: Batch) -> list[int]:
    return [int(row[0]) - 1 for row in batch.llm_ids]


def draw(source: Stream, count: int) -> list[list[int]]:
    return [ids(source.next_batch()) for _ in range(count)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@given(
    is_finite=st.booleans(),
    before=st.integers(0, 9),
    broken=st.sampled_from([3, 1000]),
    long=st.sampled_from([4, 1000]),
)
def test_a_stream_goes_on_from_any_point(is_finite: bool, before: int, broken: int, long: int) -> None:
    kind = Finite if is_finite else Endless
    whole = stream(kind(broken=broken, long=long))
    draw(whole, before)
    state = whole.state
    resumed = stream(kind(broken=broken, long=long))
    resumed.restore(state)
    assert draw(resumed, 5) == draw(whole, 5)
    assert resumed.state == whole.state


def test_each_epoch_has_every_sample_once_in_another_order() -> None:
    drawn = flat(draw(stream(Finite()), 11))
    epochs = [drawn[start : start + 11] for start in (0, 11, 22, 33)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
@pytest.mark.parametrize("broken", [1000, 2, 3])
def test_a_stream_that_ends_has_every_usable_sample_once_and_a_note_about_every_other(
    batch_size: int, broken: int
) -> None:
    ending = Stream(Finite(broken=broken), batch_size=batch_size, max_length=5, seed=5, ends=True)
    start = ending.state
    for _ in range(2):
        ending.restore(start)
        batches = []
        while not ending.has_ended:
            batches.append(ending.next_batch())
        drawn = [ids(batch) for batch in batches]
        usable = [index for index in range(11) if index % broken != broken - 1]
        assert sorted(flat(drawn)) == usable
        assert all(len(batch) == batch_size for batch in drawn[:-1])
        assert sum(len(batch.left_out) for batch in batches) == 11 - len(usable) == ending.state["num_left_out"]
        assert len(drawn) <= ending.most_batches(1000) <= 11
    # as far as it goes, the order of one that does not
    assert flat(drawn) == flat(draw(stream(Finite(broken=broken), batch_size=1), len(usable)))


def test_the_order_depends_on_the_seed_alone() -> None:
    assert draw(stream(Finite()), 3) == draw(stream(Finite()), 3)
    assert draw(stream(Finite()), 3) != draw(stream(Finite(), seed=6), 3)
    in_twos = flat(draw(stream(Finite(), batch_size=2), 6))
    assert in_twos == flat(draw(stream(Finite()), 3))


def test_an_endless_source_is_read_in_its_own_order() -> None:
    assert draw(stream(Endless()), 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_what_cannot_be_used_is_left_out_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    source = stream(Endless(broken=3, long=4))
    with caplog.at_level(logging.DEBUG):
        batches = [source.next_batch() for _ in range(2)]
    assert list(map(ids, batches)) == [[0, 1, 4, 6], [9, 10, 12, 13]]
    assert source.state == {"position": 14, "num_left_out": 6}
    assert sum("line 2 is not valid JSON" in record.message for record in caplog.records) == 1
    assert sum("9 tokens" in record.message for record in caplog.records) == 2
    found = [[(each.place.number, each.reason) for each in batch.left_out] for batch in batches]
    broken, long = Reason.other, Reason.too_long
    assert found == [[(3, broken), (4, long), (6, broken)], [(8, long), (9, broken), (12, broken)]]


def test_what_cannot_be_used_is_refused_where_that_is_asked_for() -> None:
    source = Stream(Endless(broken=3), batch_size=2, max_length=5, seed=5, on_bad_sample=OnBadSample.refuse)
    assert ids(source.next_batch()) == [0, 1]
    with pytest.raises(InputError, match=r"line 2 is not valid JSON; or .* data\.on_bad_sample=skip"):
        source.next_batch()
    source = Stream(Endless(long=2), batch_size=2, max_length=5, seed=5, on_bad_sample=OnBadSample.refuse)
    with pytest.raises(InputError, match="sample 2: it has 9 tokens, more than max_length=5"):
        source.next_batch()


def test_the_longer_sequence_counts() -> None:
    class Post(Endless):
        def __getitem__(self, index: int) -> Sample:
            return sample(index, embedding_length=3 + 3 * (index % 2))

    assert draw(stream(Post()), 1) == [[0, 2, 4, 6]]


@pytest.mark.parametrize("kind", [Finite, Endless])
@pytest.mark.parametrize("settings", [{"broken": 1}, {"long": 1}])
def test_a_source_without_a_usable_sample_is_refused(kind: type[Endless], settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="in a row can be used"):
        stream(kind(**settings)).next_batch()


@pytest.mark.parametrize("state", [{}, {"position": 3}, {"position": -1, "num_left_out": 0}])
def test_a_state_that_is_none_is_refused(state: dict[str, int]) -> None:
    with pytest.raises(CheckpointError, match="data position"):
        stream(Finite()).restore(state)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"max_length": 0}])
def test_limits_that_mean_nothing_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        stream(Finite(), **settings)


def test_a_batch_is_padded_on_the_right() -> None:
    batch = to_tensors(pad([sample(4, 3), sample(7, 5, num_tiles=2, embedding_length=6)]))
    assert batch.llm_ids.tolist() == [[5, 5, 5, 0, 0], [8, 8, 8, 8, 8]]
    assert batch.embedding_ids.tolist() == [[5, 5, 5, 0, 0, 0], [8, 8, 8, 8, 8, 8]]
    assert batch.labels.tolist() == [[-100, -100, 5, -100, -100], [-100, -100, -100, -100, 8]]
    assert batch.llm_lengths.tolist() == [3, 5]
    assert batch.embedding_lengths.tolist() == [3, 6]
    assert batch.pixel_values.shape == (3, 3, 2, 2)
    assert batch.answers == (Answer(0, 2, 3, "kind 0"), Answer(1, 4, 5, "kind 1"))


def test_a_batch_moves_to_a_device_with_all_its_tensors() -> None:
    batch = to_tensors(pad([sample(4, 3), sample(7, 5)]))
    moved = batch.to(torch.device("meta"))
    for field in dataclasses.fields(Batch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert after.device.type == "meta"
            assert (after.shape, after.dtype) == (before.shape, before.dtype)
        else:
            assert after == before


def test_samples_without_pictures_make_a_batch_of_none() -> None:
    assert to_tensors(pad([sample(1, num_tiles=0)])).pixel_values.shape == (0, 3, 2, 2)


@pytest.mark.parametrize("together", [pad, pack])
def test_samples_of_a_batch_have_the_same_colours(together: Callable[..., BatchArrays]) -> None:
    own = Colours((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    first, second = (dataclasses.replace(sample(index), colours=own) for index in (1, 2))
    assert together([first, second]).colours == own
    with pytest.raises(AssertionError, match=r"prompt_format\.colours"):
        together([first, sample(2)])


def test_an_answer_is_right_if_each_of_its_tokens_is() -> None:
    batch = Batch(
        torch.zeros(0, 3, 2, 2),
        torch.zeros(2, 5, dtype=torch.int64),
        torch.tensor([[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]]),
        torch.zeros(2, 5, dtype=torch.int64),
        torch.tensor([5, 5]),
        torch.tensor([4, 5]),
        (Answer(0, 1, 3, "a"), Answer(1, 1, 3, "a"), Answer(1, 4, 5, "b")),
    )
    # the token at t is predicted at t - 1; only row 1's first answer has a wrong one, its second token
    predicted = torch.tensor([[2, 3, -1, -1, -1], [6, -1, -1, 9, -1]])
    assert count_right(predicted, batch) == {"a": (1, 2), "b": (1, 1)}
