"""How the llava of transformers reads images as a family of ours does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.core.mixers.tensor_rules import TensorRule


@dataclass(frozen=True, slots=True, kw_only=True)
class StockEyes:
    """The part of a llava in front of its language model.

    Attributes:
        config: keys of its config.json besides `text_config`.
        rules: of its tensors.
    """

    config: Mapping[str, Any]
    rules: tuple[TensorRule, ...]
