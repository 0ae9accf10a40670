"""Names and layout of a module's tensors in a public checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Tensors = Sequence[Tensor]


def unchanged(tensors: Tensors) -> Tensors:
    """The tensors, unchanged."""
    return tensors


@dataclass(frozen=True, slots=True)
class TensorRule:
    """Conversion between public tensors and ours.

    Attributes:
        public: names in a public checkpoint.
        ours: names in the model's state_dict.
        read: converts the public tensors, in this order, to ours.
        write: converts our tensors, in this order, to the public ones; also works on the meta device.
    """

    public: tuple[str, ...]
    ours: tuple[str, ...]
    read: Callable[[Tensors], Tensors] = unchanged
    write: Callable[[Tensors], Tensors] = unchanged


def renamed(public: str, ours: str, names: Mapping[str, str]) -> list[TensorRule]:
    """One rule for each public name and our name, under two prefixes."""
    return [TensorRule((f"{public}.{name}",), (f"{ours}.{our_name}",)) for name, our_name in names.items()]
