"""How the tensors of a module are named, and laid out, in a checkpoint that others read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Tensors = Sequence[Tensor]


def unchanged(tensors: Tensors) -> Tensors:
    """The tensors as they are."""
    return tensors


@dataclass(frozen=True, slots=True)
class TensorRule:
    """Public tensors and those of ours that hold the same numbers.

    Attributes:
        public: their names in a checkpoint.
        ours: their names in the state_dict of the model.
        read: public tensors, in this order, to ours.
        write: our tensors, in this order, to the public ones; works on the meta device too.
    """

    public: tuple[str, ...]
    ours: tuple[str, ...]
    read: Callable[[Tensors], Tensors] = unchanged
    write: Callable[[Tensors], Tensors] = unchanged


def renamed(public: str, ours: str, names: Mapping[str, str]) -> list[TensorRule]:
    """One rule for each public name and our name, under two prefixes."""
    return [TensorRule((f"{public}.{name}",), (f"{ours}.{our_name}",)) for name, our_name in names.items()]
