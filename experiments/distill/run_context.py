"""What all units of work of a run share."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lab.core.models.decoder import LanguageModel
from lab.core.parallel.layout import Layout
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.data import Data


@dataclass(frozen=True, slots=True)
class RunContext:
    """State shared by all work units of a run.

    Attributes:
        config: of the run.
        teacher: frozen, unless it is what the run trains.
        data: of both splits.
        tokenizer: of the teacher.
        device: of all models.
        fill: gives a teacher that was opened without numbers, to be cut into parts, its own; None if it has them.
        layout: of the models, over the processes that work on the run: all do the same, and the first one records.
    """

    config: DistillConfig
    teacher: LanguageModel
    data: Data
    tokenizer: Tokenizer
    device: torch.device
    fill: Callable[[LanguageModel], None] | None = None
    layout: Layout = field(default_factory=Layout)
