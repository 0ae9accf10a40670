"""What is known of a stock architecture: one `StockArchitecture` in its own file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lab.core.mixers.tensor_rules import TensorRule
from lab.core.stock.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class StockArchitecture:
    """An architecture of transformers.

    Attributes:
        model_type: its name in config.json.
        model_class: of the language model.
        why: what it is chosen for, in words.
        obstacles: why it cannot hold a student: keys, values and what would do; empty if it can.
        config: the keys of config.json that its mathematics depends on.
        rules: (student, prefix of public names) to the rules of all tensors.
        rounded: ends of the names of our tensors whose numbers are rounded there, by a last bit.
    """

    model_type: str
    model_class: str
    why: str
    obstacles: Callable[[Stack], Iterator[str]]
    config: Callable[[Stack], dict[str, Any]]
    rules: Callable[[Stack, str], list[TensorRule]]
    rounded: tuple[str, ...] = ()
