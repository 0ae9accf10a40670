"""The configuration of `lab distill`, validated before anything is loaded."""

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from typing import Any

from omegaconf import MISSING

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema, with_overrides
from lab.core.list_keys import settle_lists
from lab.core.mixers.spec import mixer_spec
from lab.core.models import families
from lab.core.models.families import TeacherConfig
from lab.core.parallel.config import ParallelConfig
from lab.core.products import current
from lab.core.ranges import LARGEST_COUNT, LARGEST_SEED, refuse_outside
from lab.core.runs.attempts import ResumeOn
from lab.core.runs.sinks import refuse_unknown
from lab.core.train.loop import TrainConfig
from lab.experiments.distill import student
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.data_sources import DataConfig
from lab.experiments.distill.loader import Loader
from lab.experiments.distill.loss_mask import LossMask
from lab.experiments.distill.student import StudentConfig

TEACHER, ALL = "teacher", "all"
STAGES = (TEACHER, "1", "2", "3", ALL)
FIGURES = ("layer_error", "loss", "accuracy", "trade_off", "students")

# each is a student with its own checkpoints
_MOST_REPLICATES = 1000
# each holds the source, and samples that wait
_MOST_LOADERS = 64


class Reduction(Enum):
    """Divisor of the summed divergence: the tokens of the mask, or the sequences (mmMamba's `batchmean`)."""

    token = "token"
    sequence = "sequence"


@dataclass(kw_only=True, slots=True)
class Recipe(TrainConfig):
    """How one stage is trained."""

    loss_mask: LossMask = LossMask.all
    """Positions that enter the loss."""
    factor: float = 1000.0
    """Stages 1 and 2: the loss is this times the mean squared error of the head outputs, averaged over layers."""
    temperature: float = 1.0
    """Stage 3: temperature of both next-token distributions."""
    reduction: Reduction = Reduction.token
    """Stage 3: divisor of the divergence."""
    cross_entropy: float = 0.0
    """Stage 3: weight of the cross-entropy of the labels, added to the divergence with weight 1."""
    train_decay: bool = False
    """Stage 3: whether A_log and dt_bias are trained; they are in the paper's equation 5 but not in its code."""
    chunk_size: int = 1024
    """Stage 3: number of positions whose logits are in memory at once."""

    def __post_init__(self) -> None:
        # slots=True creates a new class, so super() without arguments fails
        TrainConfig.__post_init__(self)
        refuse_outside(self, "factor", at_least=1e-9, at_most=1e9)
        refuse_outside(self, "temperature", at_least=1e-3, at_most=1e3)
        refuse_outside(self, "cross_entropy", at_least=0, at_most=1e6)
        refuse_outside(self, "chunk_size", at_least=1, at_most=LARGEST_COUNT)


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How much held-out data is used, and the settings of the baselines."""

    num_batches: int = 16
    """Batches for the evaluation after each stage; fewer where fewer samples are held out: each is read once."""
    num_validation_batches: int = 2
    """Batches for each validation loss during training."""
    batch_size: int = 64
    """Samples of a batch."""
    window: int = 32
    """Windowed-attention baseline: number of most recent tokens that the teacher's attention sees."""
    num_sinks: int = 4
    """Windowed-attention baseline: number of first tokens (sinks) that it always sees."""

    def __post_init__(self) -> None:
        counts = ("num_batches", "num_validation_batches", "batch_size", "window")
        refuse_outside(self, *counts, at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "num_sinks", at_least=0, at_most=LARGEST_COUNT)


@dataclass(kw_only=True, slots=True)
class DistillConfig:
    """One run of `lab distill`."""

    title: str = ""
    stage: str = MISSING
    """teacher, 1, 2, 3, or all: stages 1 to 3 in one run."""
    stages: Any = field(default_factory=lambda: [1, 2, 3])
    """stage=all: which stages, in ascending order; an empty list evaluates the untrained student."""
    from_run: str | None = None
    """stage=2 and stage=3: the run to start from; null: the newest finished run of the same teacher. A run that is
    resumed keeps the one that it began with."""
    teacher: TeacherConfig = MISSING
    student: StudentConfig = field(default_factory=StudentConfig)
    data: DataConfig = MISSING
    prompt: PromptConfig = field(default_factory=PromptConfig)
    stage_teacher: Recipe = field(default_factory=Recipe)
    stage_1: Recipe = field(default_factory=Recipe)
    stage_2: Recipe = field(default_factory=Recipe)
    stage_3: Recipe = field(default_factory=Recipe)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    """Random seed of data, student initialisation, and a new teacher."""
    replicates: int = 1
    """Number of students that differ in their random numbers and data order."""
    variants: dict[str, Any] = field(default_factory=dict)
    """stage=all: several students in one run: for each label, the keys in which it differs."""
    figures: Any = field(default_factory=lambda: ["layer_error", "loss", "accuracy"])
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is a GPU."""
    threads: int | None = None
    """Number of torch threads; null: one per core. Two are 1.4 to 1.6 times as fast as one with the shipped model."""
    products: str = current.AUTO
    """What computes the products of linear layers: torch, onednn, native (outputs of 1 to 16 rows, torch the rest),
    packed (the project's, for any number of rows), or auto: for large ones, the fastest by a measurement that is made
    once on a machine."""
    loader: Loader = Loader.auto
    """Where batches are made: inline (between the steps), process (ahead of them, in a separate process), or auto:
    process in a long training that leaves a core free: on a GPU, or with fewer threads than cores."""
    loader_processes: int = 1
    """Separate processes that make the batches of a training, of each of several that share it: raise it where steps
    wait for data, as large pictures make them."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    packing: bool = False
    """Whether the samples of a training's batch stand behind each other in one row, without padding: none sees another
    and losses are those of the padded batch, but for loss_mask=all, which counts padding. A step then takes as long as
    its tokens, not as its longest sample."""
    resume_on: ResumeOn = ResumeOn.same
    """same: a run that is resumed where its last digits would be others is refused; different: that is only said."""
    sinks: Any = field(default_factory=list)
    """Sinks that receive the rows besides metrics.jsonl, by the names of their files in core/runs/sinks."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"stage={self.stage}: choose from {', '.join(STAGES)}")
        settle_lists(self, stages=int, figures=str, sinks=str)
        if sorted({*self.stages}) != self.stages or not {*self.stages} <= {1, 2, 3}:
            raise ConfigError(f"stages={self.stages}: give some of 1, 2, 3, each once, in ascending order")
        if self.from_run is not None and self.stage not in ("2", "3"):
            raise ConfigError(f"from_run={self.from_run}: only stage=2 and stage=3 start from a run; leave it out")
        if self.variants and self.stage != ALL:
            raise ConfigError(f"variants with stage={self.stage}: several students need stage=all")
        refuse_outside(self, "replicates", at_least=1, at_most=_MOST_REPLICATES)
        refuse_outside(self, "threads", at_least=1)
        refuse_outside(self, "loader_processes", at_least=1, at_most=_MOST_LOADERS)
        if self.loader_processes > 1 and self.loader is Loader.inline:
            raise ConfigError(
                f"loader_processes={self.loader_processes} with loader=inline: batches are made between the steps; "
                "choose loader=process, or loader_processes=1"
            )
        refuse_outside(self, "seed", at_least=0, at_most=LARGEST_SEED)
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device={self.device}: choose from auto, cpu, cuda")
        current.refuse_unknown(self.products)
        refuse_unknown(self.sinks)
        for name in self.figures:
            if name not in FIGURES:
                raise ConfigError(f"figures={name}: choose from {', '.join(FIGURES)}")

    @property
    def stage_numbers(self) -> tuple[int, ...]:
        """The stages in which this run trains a student."""
        if self.stage == TEACHER:
            return ()
        return tuple(self.stages) if self.stage == ALL else (int(self.stage),)

    def recipe(self, stage: int) -> Recipe:
        """How a stage is trained."""
        recipe: Recipe = getattr(self, f"stage_{stage}")
        return recipe

    def of_variants(self) -> dict[str, "DistillConfig"]:
        """The configuration of every student of the run, by its label; one student has the label ''.

        Raises:
            ConfigError: naming the variant and the invalid key.
        """
        return {label: self._variant(label, keys) for label, keys in (self.variants or {"": {}}).items()}

    def _variant(self, label: str, keys: object) -> "DistillConfig":
        for key in keys if isinstance(keys, dict) else ():
            if key not in _VARIED:
                raise ConfigError(f"variants.{label}.{key}: students of a run can differ in {', '.join(_VARIED)}")
        base = replace(self, variants={})
        if keys == {}:
            return base
        kind = _mixer_kind(keys)
        if kind not in (None, self.student.mixer.kind):
            # another mixer starts from its own defaults: the options of this one do not apply
            base.student = replace(self.student, mixer=mixer_spec(str(kind)).options())
        return with_overrides(base, keys, label=f"variants.{label}")


def _mixer_kind(keys: object) -> object:
    """The mixer that a variant names; None if it names none."""
    for key in ("student", "mixer", "kind"):
        keys = keys.get(key) if isinstance(keys, dict) else None
    return keys


# teacher, data and evaluation are shared by all students, so that one table can compare them
_VARIED = ("stages", "student", "stage_1", "stage_2", "stage_3")


@cache
def register() -> None:
    """Store the schemas, so that Hydra refuses a misspelt key with its full path."""
    families.register()
    register_schema("distill_schema", DistillConfig)
    student.register()
