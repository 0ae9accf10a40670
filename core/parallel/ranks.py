"""What the processes of a run exchange. One process alone exchanges nothing, and computes as it always did."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lab.core.parallel.end import EndedElsewhere
from lab.core.parallel.link import Link

T = TypeVar("T")

# gradients are added in pieces of so many numbers, so that their copies stay small
_PIECE = 2**24


class Ranks:
    """The processes of a run, numbered from 0; this class is one process alone.

    Attributes:
        rank: number of this process.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process records, prints and decides."""
        return self.rank == 0

    def share(self, num_batches: int) -> int:
        """How many batches of a step are this process's: as many as everybody's."""
        return num_batches // self.size

    def gathered(self, value: T) -> list[T]:
        """What each process gives, by rank."""
        return [value]

    def of_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes; the others wait for it.

        Raises:
            EndedElsewhere: if an exception is raised there, which goes on there.
        """
        return compute()

    def has_lost(self) -> bool:
        """Whether another process is gone, so that no step can be finished."""
        return False

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the sum over the processes, which have the same ones in the same order."""


ALONE = Ranks()


class Group(Ranks):
    """Several processes, connected by torch.distributed; small things are exchanged over gloo, whatever the device."""

    def __init__(self, link: Link, control: dist.ProcessGroup) -> None:
        """The process group has been initialised.

        Args:
            link: that notices what happens to the others.
            control: a group of all processes over gloo.
        """
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._link = link
        self._control = control

    def gathered(self, value: T) -> list[T]:
        """See `Ranks.gathered`; values are pickled."""
        values: list[T | None] = [None] * self.size
        with self._link.waiting():
            dist.all_gather_object(values, value, group=self._control)
        return values  # type: ignore[return-value]

    def of_first(self, compute: Callable[[], T]) -> T:
        """See `Ranks.of_first`; values are pickled."""
        answer: list[tuple[bool, T | None]] = [(False, None)]
        if self.is_first:
            try:
                answer = [(True, compute())]
            except BaseException:
                self._broadcast(answer)
                raise
        self._broadcast(answer)
        is_there, value = answer[0]
        if not is_there:
            raise EndedElsewhere("the first process ends the run")
        return value  # type: ignore[return-value]

    def has_lost(self) -> bool:
        """See `Ranks.has_lost`."""
        return self._link.has_lost()

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """See `Ranks.add_up`; tensors of a dtype are added together, a piece at a time."""
        waiting: list[Tensor] = []
        with self._link.waiting():
            for tensor in tensors:
                if waiting and (waiting[0].dtype != tensor.dtype or sum(map(torch.numel, waiting)) > _PIECE):
                    _add_up(waiting)
                    waiting = []
                waiting.append(tensor)
            if waiting:
                _add_up(waiting)

    def _broadcast(self, answer: list[tuple[bool, T | None]]) -> None:
        with self._link.waiting():
            dist.broadcast_object_list(answer, src=0, group=self._control)


def _add_up(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
