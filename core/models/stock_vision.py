"""How a stock architecture of transformers reads images as a family of ours does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.core.mixers.tensor_rules import TensorRule


@dataclass(frozen=True, slots=True, kw_only=True)
class StockVision:
    """The part of a vision-language model in front of its language model.

    Attributes:
        model_type: its name in config.json.
        model_class: of the whole model.
        config: keys of its config.json besides `text_config`.
        rules: of its tensors.
        processor: of processor_config.json; None for none.
    """

    model_type: str
    model_class: str
    config: Mapping[str, Any]
    rules: tuple[TensorRule, ...]
    processor: Mapping[str, Any] | None = None
