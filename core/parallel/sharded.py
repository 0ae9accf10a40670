"""What is trained, and what is frozen too if asked for, cut into as many parts as there are processes (FSDP2)."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from lab.core.models.decoder import LanguageModel
from lab.core.parallel.layout import Layout
from lab.core.parallel.ranks import Ranks
from lab.core.products.linear import Linear

# what is called of a mixer from outside besides `forward`: stages 1 and 2 train layer by layer
_ENTRIES = ("heads_of", "output")


class Sharded(Layout):
    """What is trained is cut along the first axis of each tensor, with its gradients and its optimizer's moments.

    Every mixer is a unit of FSDP2 (`torch.distributed.fsdp.fully_shard`): its tensors are gathered when it is entered,
    and given up behind it. A unit stands alone, since stages 1 and 2 enter the mixers without the layers around them.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        """A mesh of all processes on this kind of device."""
        super().__init__(ranks)
        # head outputs are views, which nothing here changes in place
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        self._mesh = init_device_mesh(device.type, (ranks.size,))
        self._units: list[FSDPModule] = []

    def place(self, student: LanguageModel, *, autocast: bool) -> None:
        """See `Layout.place`."""
        self._units = []
        for layer in student.converted_layers():
            mixer = layer.layer.mixer
            if autocast:
                # what autocast would cast behind the gathering is cast before it: half the bytes, the same numbers
                policy = MixedPrecisionPolicy(
                    param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
                )
                for linear in (module for module in mixer.modules() if isinstance(module, Linear)):
                    self._units.append(self._unit(linear, policy))
            self._units.append(self._unit(mixer, MixedPrecisionPolicy(cast_forward_inputs=False), *_ENTRIES))

    def begin_batch(self, *, is_last: bool) -> None:
        """See `Layout.begin_batch`: gradients are exchanged once a step."""
        for unit in self._units:
            unit.set_requires_gradient_sync(is_last, recurse=False)

    def finish_gradients(self, parameters: Iterable[Tensor]) -> None:
        """See `Layout.finish_gradients`: the units have done it in their backward passes."""

    def _unit(self, module: nn.Module, policy: MixedPrecisionPolicy, *entries: str) -> FSDPModule:
        fully_shard(module, mesh=self._mesh, reshard_after_forward=True, mp_policy=policy)
        assert isinstance(module, FSDPModule), "made one above"
        # gradients are those of a sum over the processes, each of which has scaled its part
        module.set_gradient_divide_factor(1.0)
        _enter_by(module, entries)
        return module


def _enter_by(module: nn.Module, names: Iterable[str]) -> None:
    """Gather a unit's tensors for these methods too, unless they are called from within its `forward`."""
    depth = 0

    def within(method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                return method(*arguments, **options)
            finally:
                depth -= 1

        return counted

    def choosing(plain: Callable[..., Any], gathering: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: (plain if depth else gathering)(*arguments, **options)

    for name in names:
        plain = getattr(module, name)
        # what a method calls of the others is within it
        setattr(module, name, within(plain))
        register_fsdp_forward_method(module, name)
        setattr(module, name, choosing(plain, getattr(module, name)))
    module.forward = within(module.forward)
