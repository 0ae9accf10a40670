"""The keys `parallel.*`: how several processes train one model."""

from dataclasses import dataclass
from enum import Enum

from lab.core.errors import ConfigError
from lab.core.parallel.launched import Launched
from lab.core.ranges import refuse_outside


class Strategy(Enum):
    """What each of several processes holds of what is trained."""

    none = "none"
    """One process; several are refused."""
    ddp = "ddp"
    """All of it: gradients are summed over the processes."""
    fsdp = "fsdp"
    """A part of each tensor, of its gradient and of its moments; tensors are gathered when they are used."""


class Frozen(Enum):
    """What each process holds of what is not trained: the teacher, and what the student shares with it."""

    replicated = "replicated"
    sharded = "sharded"


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    """Training in several processes, which torchrun or srun starts."""

    strategy: Strategy = Strategy.none
    """none: one process; ddp: each has the whole student; fsdp: each has a part of what is trained."""
    frozen: Frozen = Frozen.replicated
    """fsdp: whether each process holds the teacher and the student's frozen tensors (replicated) or parts (sharded)."""
    activation_checkpointing: bool = False
    """Stage 3: whether each layer's activations are computed again in the backward pass: less memory, more time."""
    timeout: float = 600.0
    """Seconds after which a process that does not answer, or that the others wait for, is given up: all end then."""

    def __post_init__(self) -> None:
        refuse_outside(self, "timeout", at_least=1, at_most=1e6)
        if self.frozen is Frozen.sharded and self.strategy is not Strategy.fsdp:
            raise ConfigError(
                f"parallel.frozen=sharded with parallel.strategy={self.strategy.value}: only fsdp cuts tensors into "
                "parts; choose parallel.strategy=fsdp"
            )


def refuse_unasked(config: ParallelConfig, here: Launched | None) -> None:
    """Refuse several processes of which nothing was said: each would do the whole run.

    Raises:
        ConfigError: naming the key.
    """
    if here is None:
        return
    if config.strategy is Strategy.none:
        raise ConfigError(
            f"{here.by}={here.size}: each of these processes would do the whole run; choose parallel.strategy=ddp or "
            "fsdp, or start it once, without torchrun and with srun --ntasks=1"
        )
    if here.address is None or not here.port:
        raise ConfigError(
            f"{here.by}={here.size}: the processes cannot find each other; start them with torchrun --no-python, or "
            "set MASTER_ADDR and MASTER_PORT to a host and a free port of the first one"
        )


def refuse_uneven(name: str, accumulation: int, processes: int) -> None:
    """Refuse batches of a step that cannot be dealt out evenly.

    Args:
        name: of the configuration block.
        accumulation: its key.
        processes: that share them.

    Raises:
        ConfigError: naming both numbers.
    """
    if accumulation % processes:
        least = -(-accumulation // processes) * processes
        raise ConfigError(
            f"{name}.accumulation={accumulation} batches of a step cannot be dealt out to {processes} processes; give "
            f"a multiple of {processes}, such as {least} with {name}.batch_size lowered"
        )
