"""How a model lies in the processes that train it: whole in each here, in parts in `sharded`."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lab.core.parallel.ranks import ALONE, Ranks

if TYPE_CHECKING:
    # models are loaded with the help of this module
    from lab.core.mixers.base import Mixer
    from lab.core.models.decoder import LanguageModel


class Layout:
    """Every process holds the whole model and an optimizer of all that is trained.

    Attributes:
        ranks: the processes.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        """Nothing is laid out yet."""
        self.ranks = ranks

    def place_teacher(self, teacher: "LanguageModel", fill: "Callable[[LanguageModel], None] | None" = None) -> None:
        """Lay out a frozen teacher, before students are made that share its tensors.

        Args:
            teacher: on its device, or without numbers, on the meta device, if it will be cut into parts.
            fill: gives one without numbers, once it is laid out, those of this process.
        """

    def place(self, mixer: "Mixer", *, autocast: bool) -> None:
        """Lay out the mixer of a converted layer, before an optimizer is made for its parameters.

        Args:
            mixer: on its device.
            autocast: whether its products are computed in bfloat16.
        """

    def finish_gradients(self, parameters: Iterable[Tensor]) -> None:
        """After the last backward pass of a step: gradients become the sums over all processes."""
        if self.ranks.size == 1:
            return
        trained = list(parameters)
        # as in one process, what no batch of a step reads has no gradient, and the optimizer leaves it alone
        unread = self.ranks.gathered([place for place, each in enumerate(trained) if each.grad is None])
        missing = set.intersection(*map(set, unread))
        kept = [each for place, each in enumerate(trained) if place not in missing]
        for each in kept:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        self.ranks.add_up(each.grad for each in kept if each.grad is not None)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all of its parts; every process must ask for it."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def cut_modules(model: nn.Module) -> dict[int, nn.Module]:
    """A memo for deepcopy, in which the copy has the modules that are cut into parts in common with the model."""
    return {id(module): module for module in model.modules() if is_cut(module)}


def is_cut(module: nn.Module) -> bool:
    """Whether the tensors of a module are cut into parts."""
    # FSDP2 gives such modules this method
    return hasattr(module, "unshard")


def assign(tensor: Tensor, value: Tensor) -> None:
    """Write a whole tensor, which every process has, into one that may be cut into parts."""
    tensor.copy_(part_of(tensor, value))


def rows_of(tensor: Tensor) -> slice | None:
    """The rows of a tensor that is cut into parts which lie in this process; None for one that lies here whole."""
    if not hasattr(tensor, "full_tensor"):
        return None
    # as in `part_of`
    from torch.distributed.tensor import DTensor  # noqa: PLC0415

    assert isinstance(tensor, DTensor), "no other has parts"
    num_rows, mesh = tensor.shape[0], tensor.device_mesh
    # the first processes have as many as each other, the last ones what is left
    each = -(-num_rows // mesh.size())
    start = min(mesh.get_local_rank() * each, num_rows)
    return slice(start, min(start + each, num_rows))


def own_part(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process, to be written into: those of `rows_of`, or all."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def part_of(tensor: Tensor, value: Tensor) -> Tensor:
    """A whole value, laid out as a tensor is."""
    if not hasattr(tensor, "full_tensor"):
        return value
    # a second to load, and needed by nobody else
    from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415

    assert isinstance(tensor, DTensor), "no other has parts"
    # no process need send what all have
    value = value.to(tensor.device)
    return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
