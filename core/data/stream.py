"""An endless, shuffled stream of batches that can be resumed exactly.

The order depends only on the seed. A sample that is broken, or longer than the model can read, is skipped: it is
counted and logged.
"""

import logging
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from lab.core.data.sample import BatchArrays, Sample, pad
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


class Stream:
    """Batches of a source.

    A finite source is reshuffled in each epoch; the last batch of an epoch is completed from the next. An endless
    source is read in order of its indices.
    """

    def __init__(self, source: Source, *, batch_size: int, max_length: int, seed: int) -> None:
        """Begin at the first sample.

        Args:
            source: where the samples come from.
            batch_size: samples in a batch.
            max_length: maximum number of tokens of a sample, in the longer of its two sequences.
            seed: random seed of the order.

        Raises:
            InputError: if a number is out of range.
        """
        self._source = source
        self._batch_size = whole_number("batch_size", batch_size)
        self._max_length = whole_number("max_length", max_length)
        self._seeds = Seeds(seed)
        self._num_samples = len(source) if isinstance(source, FiniteSource) else None
        self._order: tuple[int, Int64[ndarray, " n"]] | None = None
        self._state = {"position": 0, "num_broken": 0, "num_too_long": 0}
        # why the last sample was skipped
        self._reason = ""

    @property
    def state(self) -> dict[str, int]:
        """Number of samples read since the beginning, and how many of them were skipped as broken or too long."""
        return dict(self._state)

    def restore(self, state: dict[str, int]) -> None:
        """Resume from the `state` of a stream with the same source, seed and limits.

        Raises:
            CheckpointError: if it is not such a state.
        """
        is_count = [isinstance(value, int) and value >= 0 for value in state.values()]
        if state.keys() != self._state.keys() or not all(is_count):
            raise CheckpointError(f"the data position {state} must hold the counts {', '.join(self._state)}")
        self._state = dict(state)

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
            InputError: if none of a whole epoch, or of ten batches of an endless source, can be used.
        """
        samples: list[Sample] = []
        patience = self._num_samples or 10 * self._batch_size
        num_left_out = 0
        while len(samples) < self._batch_size:
            sample = self._next_sample()
            num_left_out = 0 if sample is not None else num_left_out + 1
            if sample is not None:
                samples.append(sample)
            elif num_left_out >= patience:
                raise InputError(f"none of {num_left_out} samples in a row can be used; the last: {self._reason}")
        return pad(samples)

    def _next_sample(self) -> Sample | None:
        index = self._index(self._state["position"])
        self._state["position"] += 1
        try:
            sample = self._source[index]
        except InputError as error:
            self._state["num_broken"] += 1
            self._reason = str(error)
            _log.warning("sample left out: %s", error)
            return None
        length = max(len(sample.conversation.llm_ids), len(sample.conversation.embedding_ids))
        if length > self._max_length:
            self._state["num_too_long"] += 1
            self._reason = f"it has {length} tokens, more than max_length={self._max_length}; raise that, or shorten it"
            _log.info("sample %d left out: %d tokens, more than %d", index, length, self._max_length)
            return None
        return sample

    def _index(self, position: int) -> int:
        if self._num_samples is None:
            return position
        epoch, place = divmod(position, self._num_samples)
        if self._order is None or self._order[0] != epoch:
            order = self._seeds.numpy("order of samples", epoch).permutation(self._num_samples)
            self._order = (epoch, np.asarray(order, dtype=np.int64))
        return int(self._order[1][place])
