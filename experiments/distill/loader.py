"""Where the batches of a training are made: between its steps, or ahead of them in a separate process."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import torch

from lab.core.data.prefetch import DEPTH, Prefetched
from lab.core.data.share import SharedStream
from lab.core.data.stream import Batches, Stream
from lab.core.resources import usable_cores

# about as many as are made in the time that a process takes to start
_NUM_WORTH = 1000


class Loader(Enum):
    """`auto` is `process` in a training of more than a thousand samples, if a core is free, and with several processes.

    With a torch thread on each of two cores, a process made steps of the shipped model up to 5 % slower: it takes turns
    with the threads. With one thread on two cores, it made them 1 to 5 % faster.
    """

    auto = "auto"
    process = "process"
    inline = "inline"


@contextmanager
def loaded(
    stream: Stream | SharedStream, loader: Loader, *, num_samples: int, device: torch.device, processes: int = 1
) -> Iterator[Batches]:
    """The batches of a stream, which moves on with them; the process is gone at the end.

    Args:
        stream: positioned where to begin.
        loader: where batches are made.
        num_samples: how many samples will be read here.
        device: where the steps are computed.
        processes: how many make samples ahead, if any does; with several, `auto` is `process`.

    Raises:
        RunError: if there should be a process and none can be started.
    """
    is_asked_for = processes > 1
    is_worth = is_asked_for or (num_samples >= _NUM_WORTH and _has_free_core(device))
    if loader is Loader.process or (loader is Loader.auto and is_worth):
        if isinstance(stream, SharedStream):
            # all of a step are read before it begins: meanwhile the next ones are made
            depth = max(DEPTH, stream.num_batches)
            with Prefetched(stream.part, depth=depth, processes=processes) as batches:
                yield stream.read_by(batches)
            return
        with Prefetched(stream, processes=processes) as batches:
            yield batches
    else:
        yield stream


def _has_free_core(device: torch.device) -> bool:
    """Whether a step leaves a core to others: its threads on the CPU have one each, and wait for each other."""
    num_busy = torch.get_num_threads() if device.type == "cpu" else 1
    return num_busy < usable_cores()
