"""Where the batches of a training are made: between its steps, or ahead of them in a process of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from lab.core.data.prefetch import Prefetched
from lab.core.data.stream import Batches, Stream

# about as many as are made in the time that a process takes to start
_NUM_WORTH = 1000


class Loader(Enum):
    """`auto` is `process` if there is another core for it and a training of more than a thousand samples ahead."""

    auto = "auto"
    process = "process"
    inline = "inline"


@contextmanager
def loaded(stream: Stream, loader: Loader, *, num_samples: int) -> Iterator[Batches]:
    """The batches of a stream, which moves on with them; the process is gone at the end.

    Args:
        stream: positioned where to begin.
        loader: where batches are made.
        num_samples: how many samples will be read.

    Raises:
        RunError: if there should be a process and none can be started.
    """
    is_worth = num_samples >= _NUM_WORTH and len(os.sched_getaffinity(0)) > 1
    if loader is Loader.process or (loader is Loader.auto and is_worth):
        with Prefetched(stream) as batches:
            yield batches
    else:
        yield stream
