"""Memory that each process of a run holds between two batches: weights, gradients and moments.

The estimates before a run and `--plan` count the same way, the former from sizes, the latter from built tensors.
"""

from dataclasses import dataclass

import torch

from lab.core.parallel.config import Frozen, ParallelConfig, Strategy
from lab.core.parallel.launched import Launched

# of AdamW, for each trained number
MOMENTS = 2
FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a run is spread over processes.

    Attributes:
        processes: of the run.
        here: those on this machine, which share its memory.
        trained_parts: into how many the student's mixers are cut.
        frozen_parts: into how many the teacher is cut.
    """

    processes: int = 1
    here: int = 1
    trained_parts: int = 1
    frozen_parts: int = 1

    @classmethod
    def of(cls, parallel: ParallelConfig, processes: int, *, here: int | None = None) -> "Spread":
        """The spread that a configuration asks for; by default, all processes are on this machine."""
        return cls(
            processes=processes,
            here=processes if here is None else here,
            trained_parts=processes if parallel.strategy is Strategy.fsdp else 1,
            frozen_parts=processes if parallel.frozen is Frozen.sharded else 1,
        )

    @classmethod
    def of_launched(cls, parallel: ParallelConfig, launched: Launched | None) -> "Spread":
        """The spread over the processes that were started together with this one."""
        return cls() if launched is None else cls.of(parallel, launched.size, here=launched.local_size)


ALONE = Spread()


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How many numbers a run holds, and in how many bytes each.

    Attributes:
        teacher: all weights.
        uncut: those of the teacher that every process holds, however it is cut: an embedding that is the output head.
        own: what the student does not share with it: its mixers without their output projections.
        output: those projections, which are the teacher's.
        trained: those of `own` that are trained.
        size: bytes of a weight of the teacher.
        own_size: bytes of a number of the student's mixers.
    """

    teacher: int
    uncut: int
    own: int
    output: int
    trained: int
    size: int
    own_size: int

    def memory(self, spread: Spread) -> "ProcessMemory":
        """The bytes that one process holds."""
        # a projection in another precision, or in parts, is a copy
        is_shared = self.own_size == self.size and spread.trained_parts == 1
        untrained = self.own - self.trained + (0 if is_shared else self.output)
        return ProcessMemory(
            teacher=self.uncut * self.size + (self.teacher - self.uncut) * self.size // spread.frozen_parts,
            untrained=untrained * self.own_size // spread.trained_parts,
            trained=(1 + MOMENTS) * self.trained * self.own_size // spread.trained_parts,
            gradients=self.trained * self.own_size // spread.trained_parts,
            written=0 if spread.processes == 1 else (self.own + MOMENTS * self.trained) * self.own_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Bytes that one process holds.

    Attributes:
        teacher: its weights.
        untrained: the student's tensors that this stage does not train.
        trained: those that it trains, and their moments.
        gradients: of those.
        written: the copy that the first of several processes writes as a checkpoint while the others go on.
    """

    teacher: int
    untrained: int
    trained: int
    gradients: int
    written: int

    @property
    def student(self) -> int:
        """All but the teacher, in each process."""
        return self.untrained + self.trained + self.gradients


def own_size(dtype: torch.dtype, *, autocast: bool) -> int:
    """Bytes of a number of a student's mixers: what is trained in narrow precision is kept in float32."""
    return FLOAT32 if autocast else dtype.itemsize
