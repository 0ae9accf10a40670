"""Load a model that is cut into parts over processes: each reads its own, a tensor at a time, never the whole model."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lab.core.mixers.tensor_rules import TensorRule, unchanged
from lab.core.models.checkpoint import StoredTensors, expected_shapes, refuse_another_kind, refuse_not_finite
from lab.core.models.decoder import draw_weight
from lab.core.models.tensor_names import KeyMap
from lab.core.parallel.layout import assign, own_part, rows_of

# floats of more than a byte in the headers of safetensors
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def refuse_unfit(model: nn.Module, keys: KeyMap, stored: StoredTensors, *, source: Path) -> None:
    """Refuse a checkpoint that is not one of a model, from the headers of its files.

    Args:
        model: built on the meta device; its parameters say which shapes are expected.
        keys: where each tensor belongs.
        stored: the checkpoint.
        source: named in errors.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown, of a wrong shape or no floats.
    """
    for name, shape in expected_shapes(model, keys, stored, source=source).items():
        found, dtype = stored.described(name)
        refuse_another_kind(source, name, found, shape, dtype, dtype in _FLOATS)


def load_parts(model: nn.Module, keys: KeyMap, stored: StoredTensors, *, source: Path) -> None:
    """Give a model the weights of a checkpoint that passed `refuse_unfit`: of tensors in parts, this process's rows.

    A tensor that the file has as it is here is read row by row as needed; what is packed otherwise there is converted
    as a whole, before the next one is read. Together, the processes look at every number.

    Args:
        model: whose tensors have memory; it may be cut into parts.
        keys: where each tensor belongs.
        stored: the checkpoint.
        source: named in errors.

    Raises:
        CheckpointError: naming the first tensor that is not finite.
    """
    ours = model.state_dict()

    def checked(name: str, rows: slice | None = None) -> Tensor:
        tensor = stored.rows(name, rows)
        refuse_not_finite(source, name, tensor)
        return tensor

    with torch.no_grad():
        for rule in keys.rules:
            if _is_renaming(rule):
                tensor = ours[rule.ours[0]]
                rows = rows_of(tensor)
                if rows is None or rows.start < rows.stop:
                    own_part(tensor).copy_(checked(rule.public[0], rows))
                continue
            dtype = ours[rule.ours[0]].dtype
            for name, value in zip(
                rule.ours, rule.read([checked(public).to(dtype) for public in rule.public]), strict=True
            ):
                assign(ours[name], value)


def draw_parts(model: nn.Module, *, generator: torch.Generator, std: float) -> None:
    """`draw_weights` for a model that may be cut into parts: the numbers of a whole one, a tensor at a time."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
            draw_weight(name, value, generator=generator, std=std)
            assign(parameter, value)


def _is_renaming(rule: TensorRule) -> bool:
    return len(rule.public) == len(rule.ours) == 1 and rule.read is unchanged
