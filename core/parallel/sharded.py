"""What is trained, and what is frozen too if asked for, cut into as many parts as there are processes (FSDP2)."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lab.core.mixers.base import Mixer
from lab.core.models.decoder import Decoder, LanguageModel
from lab.core.models.swiglu import SwiGlu
from lab.core.parallel.layout import Layout
from lab.core.parallel.ranks import Ranks
from lab.core.products.linear import Linear

# what is called of a mixer from outside besides `forward`: stages 1 and 2 train layer by layer
_ENTRIES = ("heads_of", "output")


class Sharded(Layout):
    """What is trained is cut along the first axis of each tensor, with its gradients and its optimizer's moments.

    Every mixer is a unit of FSDP2 (`torch.distributed.fsdp.fully_shard`): its tensors are gathered when it is entered,
    and given up behind it. A unit stands alone, since stages 1 and 2 enter the mixers without the layers around them.
    A teacher is cut in the same way, if asked for: its attentions, SwiGLUs, embeddings and linear layers are units,
    which its students share; norms stay whole, and so does an embedding that is the output head too.
    """

    def __init__(self, ranks: Ranks, device: torch.device, *, is_teacher_cut: bool) -> None:
        """A mesh of all processes on this kind of device.

        Args:
            ranks: the processes.
            device: of the models in this process.
            is_teacher_cut: whether the teacher is cut too.
        """
        super().__init__(ranks)
        self._device = device
        self._is_teacher_cut = is_teacher_cut
        # head outputs are views, which nothing here changes in place
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        self._mesh = init_device_mesh(device.type, (ranks.size,))
        self._frozen: set[FSDPModule] = set()
        self._entered: set[FSDPModule] = set()

    def place_teacher(self, teacher: LanguageModel, fill: Callable[[LanguageModel], None] | None = None) -> None:
        """See `Layout.place_teacher`."""
        if not self._is_teacher_cut:
            return
        is_empty = any(parameter.is_meta for parameter in teacher.parameters())
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        for module in _frozen_units(teacher):
            entries = _ENTRIES if isinstance(module, Mixer) else ()
            self._frozen.add(self._unit(module, policy, *entries))
        if is_empty:
            assert fill is not None, "who makes a model without numbers knows where they are"
            teacher.to_empty(device=self._device)
            fill(teacher)
            # nothing is begun before all have found their parts whole
            self.ranks.gathered(None)
            return
        # it was loaded elsewhere, where a whole one has room
        for tensor in (*teacher.parameters(), *teacher.buffers()):
            if not isinstance(tensor, DTensor):
                tensor.data = tensor.data.to(self._device)

    def place(self, mixer: Mixer, *, autocast: bool) -> None:
        """See `Layout.place`."""
        if autocast:
            # what autocast would cast behind the gathering is cast before it: half the bytes, the same numbers
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
            for linear in (module for module in mixer.modules() if isinstance(module, Linear)):
                self._unit(linear, policy)
        self._unit(mixer, MixedPrecisionPolicy(cast_forward_inputs=False), *_ENTRIES)

    def finish_gradients(self, parameters: Iterable[Tensor]) -> None:
        """See `Layout.finish_gradients`: units do it behind each batch, so that none keeps a whole gradient."""
        for unit in self._entered & self._frozen:
            # without a backward pass of their own they would note each forward pass for ever
            unit.reset_iter_state()
        self._entered.clear()

    def _unit(self, module: nn.Module, policy: MixedPrecisionPolicy, *entries: str) -> FSDPModule:
        fully_shard(module, mesh=self._mesh, reshard_after_forward=True, mp_policy=policy)
        assert isinstance(module, FSDPModule), "made one above"
        # gradients are those of a sum over the processes, each of which has scaled its part
        module.set_gradient_divide_factor(1.0)
        # a sum without a factor, which gloo knows too
        module.set_force_sum_reduction_for_comms(True)
        _enter_by(module, entries, self._entered)
        return module


def _frozen_units(model: LanguageModel) -> Iterator[nn.Module]:
    """Modules of a teacher that are cut, none of them within another one."""
    within: set[nn.Module] = set()
    heads = {module.tokens for module in model.modules() if isinstance(module, Decoder) and module.output is None}
    for module in model.modules():
        if module in within or module in heads:
            continue
        if isinstance(module, Mixer | SwiGlu | nn.Embedding | nn.Linear):
            within |= {*module.modules()}
            yield module


def _enter_by(module: FSDPModule, names: Iterable[str], entered: set[FSDPModule]) -> None:
    """Gather a unit's tensors for these methods too, unless they are called from within its `forward`.

    Args:
        module: the unit.
        names: of the methods.
        entered: the unit is added to it whenever it is entered.
    """
    assert isinstance(module, nn.Module), "it is both"
    depth = 0

    def within(method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            entered.add(module)
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
