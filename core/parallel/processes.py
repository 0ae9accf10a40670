"""The other processes of this run: found when a command begins, and connected when it trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from lab.core.errors import ConfigError
from lab.core.parallel.config import Frozen, ParallelConfig, Strategy
from lab.core.parallel.launched import launched
from lab.core.parallel.layout import Layout
from lab.core.parallel.link import Link
from lab.core.parallel.ranks import ALONE, Group
from lab.core.streams import say

# what the link finds out comes first
_MARGIN = timedelta(seconds=30)

_link: Link | None = None


def own_device(device: torch.device) -> torch.device:
    """The device of this process: each of several on a machine has its own GPU.

    Raises:
        ConfigError: if there are too few.
    """
    here = launched()
    if here is None or device.type != "cuda":
        return device
    place = 0 if here.is_step and torch.cuda.device_count() == 1 else here.local_rank
    if place >= torch.cuda.device_count():
        raise ConfigError(
            f"rank {here.rank} is number {here.local_rank} on its machine, which has {torch.cuda.device_count()} GPUs; "
            "start as many processes on each machine as it has GPUs"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


@contextmanager
def joined(link: Link) -> Iterator[None]:
    """A context in which `layout` connects this process with the others of a link."""
    global _link
    _link = link
    try:
        yield
    finally:
        _link = None


@contextmanager
def layout(config: ParallelConfig, device: torch.device) -> Iterator[Layout]:
    """How models are laid out over the processes of this run; all of them enter the context together.

    At its end none may wait for the others any more.

    Args:
        config: the keys `parallel.*`.
        device: of the models.

    Raises:
        RunError: if one of the processes is gone.
    """
    link = _link
    if link is None:
        if config.strategy is not Strategy.none:
            say(f"parallel.strategy={config.strategy.value}: this is one process; torchrun or srun starts several")
        yield Layout(ALONE)
        return
    link.timeout = config.timeout
    timeout = timedelta(seconds=config.timeout) + _MARGIN
    here = link.launched
    with link.explained():
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=link.group_store,
            rank=here.rank,
            world_size=here.size,
            timeout=timeout,
        )
        ranks = Group(link, dist.new_group(backend="gloo", timeout=timeout))
        if config.strategy is not Strategy.fsdp:
            yield Layout(ranks)
        else:
            # a second to load, and needed by nobody else
            from lab.core.parallel.sharded import Sharded  # noqa: PLC0415

            yield Sharded(ranks, device, is_teacher_cut=config.frozen is Frozen.sharded)
    dist.destroy_process_group()
