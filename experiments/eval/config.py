"""The configuration of `lab eval`, validated before anything is loaded."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import MISSING

from lab.core.data.prompt_format import MOST_TILES
from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema
from lab.core.list_keys import settle_lists
from lab.core.models.folder import Precision
from lab.core.products import current
from lab.core.ranges import LARGEST_COUNT, LARGEST_SEED, refuse_outside
from lab.core.runs.attempts import ResumeOn
from lab.core.runs.sinks import refuse_unknown
from lab.experiments.eval.published import refuse_unknown_models

CHANCE, IMAGE_ABLATED, WINDOWED, EQUAL_MEMORY = "chance", "image_ablated", "windowed", "equal_memory"
BASELINES = (CHANCE, IMAGE_ABLATED, WINDOWED, EQUAL_MEMORY)
FIGURES = ("scores",)


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """One evaluation: several models, several tasks, one table."""

    title: str = "Evaluation"
    models: Any = MISSING
    """What is evaluated: a checkpoint folder, a GGUF file, shipped, a run, or RUN@STAGE:VARIANT:REPLICATE, with * for
    all replicates."""
    tasks: Any = MISSING
    """What on: FILE.tsv in VLMEvalKit's layout, BENCHMARK:FILE.tsv, likelihood:FILE.tsv, picture_questions:NUMBER,
    easy_vqa:NUMBER, text:PATH or text:python."""
    against: str | None = None
    """The teacher: differences, recovery and divergence are measured against it, and it is evaluated too."""
    baselines: Any = field(default_factory=lambda: ["chance", "image_ablated", "windowed"])
    """Rows that need no training: chance and, with against=TEACHER, the teacher with images ablated (image_ablated),
    with windowed attention (windowed), or with windows whose keys and values take as many bytes as the states of its
    students, layer by layer (equal_memory)."""
    window: int = 32
    """windowed: number of most recent tokens that the teacher's attention sees."""
    num_sinks: int = 4
    """windowed and equal_memory: number of first tokens (sinks) that it always sees."""
    limit: int | None = None
    """Number of first questions or documents of each task; null: all."""
    max_new_tokens: int = 1024
    """Where an answer ends at the latest."""
    max_tiles: int | None = None
    """Tiles of an image; null: the benchmark's (6, MMMU: 12), or as many as in training if those are fewer."""
    system: str | None = None
    """System message; null: the one used in training."""
    context: int = 2048
    """text: tokens of a window."""
    stride: int = 1024
    """text: tokens that each window after the first predicts; the rest of it is context."""
    resamples: int = 2000
    """Number of bootstrap resamples."""
    confidence: float = 0.95
    """Coverage of the intervals."""
    tolerance: float = 1.0
    """How far below the teacher a headline score may be and still tie, in its unit."""
    published: Any = field(default_factory=lambda: ["HoVLE", "mmMamba-linear", "mmMamba-hybrid"])
    """Models whose published scores (conf/published) are shown beside, on benchmarks that the paper has."""
    figures: Any = field(default_factory=lambda: ["scores"])
    """Figures to draw: scores, the headlines with their intervals."""
    precision: Precision | None = None
    """Precision of the weights; null: as stored."""
    seed: int = 0
    """Random seed of the bootstrap."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is a GPU."""
    threads: int | None = None
    """Number of torch threads; null: one per core."""
    products: str = "auto"
    """What computes linear layers: torch, onednn, native, packed, or auto: for large ones the fastest."""
    resume_on: ResumeOn = ResumeOn.same
    """same: a run that is resumed where its last digits would be others is refused; different: that is only said."""
    sinks: Any = field(default_factory=list)
    """Sinks that receive the rows besides metrics.jsonl, by the names of their files in core/runs/sinks."""

    def __post_init__(self) -> None:
        settle_lists(self, models=str, tasks=str, baselines=str, figures=str, published=str, sinks=str)
        for key, hint in (("models", "shipped"), ("tasks", "POPE.tsv")):
            words = getattr(self, key)
            if not words:
                raise ConfigError(f"{key}=[]: give one or more, such as {hint}")
            twice = next((word for word in words if words.count(word) > 1), None)
            if twice is not None:
                raise ConfigError(f"{key} has {twice} twice; leave one out")
        unknown = next((name for name in self.baselines if name not in BASELINES), None)
        if unknown is not None:
            raise ConfigError(f"baselines={unknown}: choose from {', '.join(BASELINES)}")
        if EQUAL_MEMORY in self.baselines and self.against is None:
            raise ConfigError(
                f"baselines={EQUAL_MEMORY} gives a teacher the memory of its students; add against=TEACHER"
            )
        unknown = next((name for name in self.figures if name not in FIGURES), None)
        if unknown is not None:
            raise ConfigError(f"figures={unknown}: choose from {', '.join(FIGURES)}")
        refuse_unknown_models(self.published)
        counts = ("window", "limit", "max_new_tokens", "context", "stride", "resamples", "threads")
        refuse_outside(self, *counts, at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "num_sinks", at_least=0, at_most=LARGEST_COUNT)
        refuse_outside(self, "max_tiles", at_least=1, at_most=MOST_TILES)
        refuse_outside(self, "confidence", above=0, below=1)
        refuse_outside(self, "tolerance", at_least=0, at_most=1e4)
        refuse_outside(self, "seed", at_least=0, at_most=LARGEST_SEED)
        if self.context < 2:
            raise ConfigError(f"context={self.context}: a window predicts nothing with one token; give 2 or more")
        if self.stride >= self.context:
            raise ConfigError(f"stride={self.stride} must be less than context={self.context}; lower it")
        current.refuse_unknown(self.products)
        refuse_unknown(self.sinks)


@cache
def register() -> None:
    """Store the schema, so that Hydra refuses a misspelt key with its full path."""
    register_schema("eval_schema", EvalConfig)
