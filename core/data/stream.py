"""An endless, shuffled stream of batches that can be resumed exactly.

The order depends only on the seed. A sample that is broken, or longer than the model can read, is left out and comes
with the next batch as a note about it; or it is refused.
"""

import logging
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from lab.core.data.bad_samples import BadSample, LeftOut, OnBadSample, Place, Placed, Reason, reason_of
from lab.core.data.read_ahead import Expecting, ReadAhead
from lab.core.data.sample import BatchArrays, Sample, pack, pad
from lab.core.errors import CheckpointError, InputError
from lab.core.runs.random_streams import Seeds
from lab.core.validation import whole_number

if TYPE_CHECKING:
    from lab.core.data.batch import Batch

# every source has a training split and a held-out split
SPLITS = ("train", "test")

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Samples by their index. It can be pickled, so that another process can read it; see `Prefetched`."""

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; an InputError says that it is broken."""
        ...


@runtime_checkable
class FiniteSource(Source, Protocol):
    """A source with a finite number of samples, reshuffled in every epoch."""

    def __len__(self) -> int: ...


class Batches(Protocol):
    """An endless stream of batches whose position can be saved and restored."""

    @property
    def state(self) -> dict[str, int]:
        """The position behind the last batch that was handed out."""
        ...

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        ...

    def next_batch(self) -> "Batch":
        """The next batch."""
        ...


class Arrays(Batches, Protocol):
    """Batches that a process without torch can read for another one; see `Prefetched`."""

    def read_by_several(self, processes: int) -> None:
        """From now on, other processes make samples too, so many with this one; batches stay the same."""
        ...

    def next_arrays(self) -> BatchArrays:
        """The next batch as arrays."""
        ...


class Stream:
    """Batches of a source.

    A finite source is reshuffled in each epoch; the last batch of an epoch is completed from the next. An endless
    source is read in order of its indices.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        max_length: int,
        seed: int,
        on_bad_sample: OnBadSample = OnBadSample.skip,
        is_packed: bool = False,
        ends: bool = False,
    ) -> None:
        """Begin at the first sample.

        Args:
            source: where the samples come from.
            batch_size: samples in a batch.
            max_length: maximum number of tokens of a sample, in the longer of its two sequences.
            seed: random seed of the order.
            on_bad_sample: what is done about a sample that cannot be used.
            is_packed: whether the samples of a batch are packed into one row instead of padded.
            ends: whether a finite source is read once only: its last batch may be smaller; see `has_ended`.

        Raises:
            InputError: if a number is out of range.
        """
        self._source = source
        self._batch_size = whole_number("batch_size", batch_size)
        self._max_length = whole_number("max_length", max_length)
        self._on_bad_sample = on_bad_sample
        self._collate = pack if is_packed else pad
        self._seeds = Seeds(seed)
        self._num_samples = len(source) if isinstance(source, FiniteSource) else None
        self._end = self._num_samples if ends else None
        # looked at before a batch was handed out
        self._ahead: dict[int, Sample] = {}
        self._order: tuple[int, Int64[ndarray, " n"]] | None = None
        self._state = {"position": 0, "num_left_out": 0}
        # where the reading is expected to jump, and how far
        self._jump: tuple[int, int] | None = None

    @property
    def state(self) -> dict[str, int]:
        """Number of samples read since the beginning, and how many of them were left out."""
        return dict(self._state)

    def most_batches(self, number: int) -> int:
        """How many of so many batches there are from the start, unless samples are left out."""
        return number if self._end is None else min(number, -(-self._end // self._batch_size))

    @property
    def has_ended(self) -> bool:
        """Whether there is no further batch."""
        return self._end is not None and self._state["position"] >= self._end

    def restore(self, state: dict[str, int]) -> None:
        """Resume from the `state` of a stream with the same source, seed and limits.

        Raises:
            CheckpointError: if it is not such a state.
        """
        is_count = [isinstance(value, int) and value >= 0 for value in state.values()]
        if state.keys() != self._state.keys() or not all(is_count):
            raise CheckpointError(f"the data position {state} must hold the counts {', '.join(self._state)}")
        self._state = dict(state)

    def read_by_several(self, processes: int) -> None:
        """See `Arrays.read_by_several`.

        Raises:
            RunError: if a process cannot be started, or the source cannot be sent to it.
        """
        self._source = ReadAhead(self._source, processes=processes)

    def expect_jump(self, num_samples: int, by: int) -> None:
        """Say that the reading is likely to jump over `by` samples behind the next `num_samples`."""
        self._jump = self._state["position"] + num_samples, by

    def next_batch(self) -> "Batch":
        """The next usable samples, collated.

        Raises:
            InputError: as `next_arrays`.
        """
        # a process that makes samples for another one does without the seconds and the memory that torch takes
        from lab.core.data.batch import to_tensors  # noqa: PLC0415

        return to_tensors(self.next_arrays())

    def next_arrays(self) -> BatchArrays:
        """The next usable samples as arrays, for a process that does without torch.

        Raises:
            InputError: if none of a whole epoch, or of ten batches of an endless source, can be used; or for the first
                that cannot, if they are to be refused.
        """
        samples: list[Sample] = []
        left_out: list[LeftOut] = []
        patience = self._num_samples or 10 * self._batch_size
        num_in_a_row = 0
        assert not self.has_ended, "asked before"
        while not self.has_ended and (len(samples) < self._batch_size or self._is_unusable_from_here()):
            if isinstance(self._source, Expecting):
                self._source.expect(self._upcoming(self._source.num_expected))
            index = self._index(self._state["position"])
            self._state["position"] += 1
            try:
                found = self._ahead.pop(index, None)
                samples.append(found or usable_sample(self._source, index, max_length=self._max_length))
                num_in_a_row = 0
            except InputError as error:
                if self._on_bad_sample is OnBadSample.refuse:
                    raise refusal(error) from None
                self._state["num_left_out"] += 1
                num_in_a_row += 1
                left_out.append(LeftOut(place_of(self._source, index), reason_of(error), str(error)))
                _log.debug("sample left out: %s", error)
                if num_in_a_row >= patience:
                    raise InputError(
                        f"none of {num_in_a_row} samples in a row can be used; the last: {error}"
                    ) from None
        return self._collate(samples, left_out)

    def _is_unusable_from_here(self) -> bool:
        """Whether a stream that ends has only samples before its end that would make no further batch."""
        for position in range(self._state["position"], self._end or 0):
            index = self._index(position)
            try:
                self._ahead = {index: usable_sample(self._source, index, max_length=self._max_length)}
            except InputError:
                continue
            return False
        return self._end is not None

    def _upcoming(self, number: int) -> list[int]:
        """The samples that are likely to be read next, as far as they are of this epoch."""
        first = self._state["position"]
        end, by = self._jump or (first + number, 0)
        if first >= end:
            # more than expected are read here
            end = first + number
        positions = [place if place < end else place + by for place in range(first, first + number)]
        if self._num_samples is not None:
            positions = [place for place in positions if place // self._num_samples == first // self._num_samples]
        return [self._index(place) for place in positions]

    def _index(self, position: int) -> int:
        if self._num_samples is None:
            return position
        epoch, place = divmod(position, self._num_samples)
        if self._order is None or self._order[0] != epoch:
            order = self._seeds.numpy("order of samples", epoch).permutation(self._num_samples)
            self._order = (epoch, np.asarray(order, dtype=np.int64))
        return int(self._order[1][place])


def usable_sample(source: Source, index: int, *, max_length: int) -> Sample:
    """Sample `index` of a source.

    Raises:
        InputError: if it is broken, or has more than `max_length` tokens in the longer of its two sequences.
    """
    sample = source[index]
    length = max(len(sample.conversation.llm_ids), len(sample.conversation.embedding_ids))
    if length > max_length:
        raise BadSample(
            f"{place_of(source, index)}: it has {length} tokens, more than max_length={max_length}; raise that, or "
            "shorten it",
            Reason.too_long,
        )
    return sample


def refusal(error: InputError) -> BadSample:
    """The error about a sample that is to be refused, with what else can be done about it."""
    return BadSample(f"{error}; or leave such samples out with data.on_bad_sample=skip", reason_of(error))


def place_of(source: Source, index: int) -> Place:
    """Where sample `index` of a source is."""
    return source.place(index) if isinstance(source, Placed) else Place("", index + 1)
