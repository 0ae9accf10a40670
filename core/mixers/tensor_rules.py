"""Names and layout of a module's tensors in a public checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lab.core.errors import CheckpointError

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


def derived(
    public: tuple[str, ...],
    ours: tuple[str, ...],
    *,
    read: Callable[[Tensors], Tensors],
    write: Callable[[Tensors], Tensors],
) -> TensorRule:
    """A rule whose public tensors hold our numbers more than once, or constants besides; others are refused.

    Raises:
        CheckpointError: from `read`, naming the first public tensor that is not what `write` makes of the numbers read.
    """

    def read_checked(tensors: Tensors) -> Tensors:
        found = read(tensors)
        for name, given, expected in zip(public, tensors, write(found), strict=True):
            if not given.equal(expected):
                raise CheckpointError(
                    f"{name} was changed: what were copies of the same rows, or zeros, differ now, and a student has "
                    "no place for them; read this folder with transformers, or export the student again"
                )
        return found

    return TensorRule(public, ours, read_checked, write)


def with_zeros(rule: TensorRule, sizes: Mapping[str, Sequence[int]]) -> TensorRule:
    """A rule to which public tensors of zeros are added, by name and shape, in the dtype of its first tensor."""
    count = len(rule.public)

    def read(tensors: Tensors) -> Tensors:
        return rule.read(tensors[:count])

    def write(tensors: Tensors) -> Tensors:
        return [*rule.write(tensors), *(tensors[0].new_zeros(tuple(size)) for size in sizes.values())]

    return derived((*rule.public, *sizes), rule.ours, read=read, write=write)
