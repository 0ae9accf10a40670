"""The configuration of `lab probe`, validated before anything is loaded."""

from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import Any

from omegaconf import MISSING

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema
from lab.core.list_keys import settle_lists
from lab.core.models.folder import Precision
from lab.core.products import current
from lab.core.ranges import LARGEST_COUNT, LARGEST_SEED, refuse_outside
from lab.core.runs.attempts import ResumeOn
from lab.core.runs.sinks import refuse_unknown
from lab.experiments.distill.data_sources import DataConfig

FIGURES = ("risk_by_width", "risk_by_ridge", "layers", "causes")
# keys that a file of features has no use for
_OF_MODELS = ("layers", "num_contexts", "skip", "answers_only", "target", "num_classes", "precision")
# in units of squared features; beyond it, what is left of a head is lost in rounding
_LARGEST_RIDGE = 1e100
VARIANTS = ("as_they_are", "distinct", "linear_labels", "jitter", "gaussian", "elliptical", "clustered")


class Basis(Enum):
    """What the first p coordinates are."""

    rotation = "rotation"
    """Coordinates after a random rotation: every width sees a part of every direction."""
    principal = "principal"
    """Principal components, the largest first."""
    projection = "projection"
    """Coordinates of a random projection."""
    as_given = "as_given"
    """The columns in their order."""


class Target(Enum):
    """What is predicted from the states of a model."""

    next_embedding = "next_embedding"
    """The model's embedding of the next token."""
    next_token = "next_token"
    """The next token, as one of `num_classes` frequent ones or another one."""
    teacher_state = "teacher_state"
    """The teacher's state behind its last layer, at the same token; with run=RUN."""


@dataclass(kw_only=True, slots=True)
class ProbeConfig:
    """Heads on given features, or on the states of models."""

    title: str = "Linear heads on given representations"
    features: str | None = None
    """A file of features: .npy, .npz, .parquet or .safetensors; see docs/probe.md."""
    targets: str | None = None
    """A .npy file of targets (numbers) or labels (whole numbers), if they are not in the file of features."""
    groups: str | None = None
    """A .npy file with the context of each row, if it is not in the file of features."""
    model: Any = None
    """Models whose states are probed: a checkpoint folder, a GGUF file, shipped, a run, or
    RUN@STAGE:VARIANT:REPLICATE."""
    run: str | None = None
    """A run of `lab distill`: its teacher, its untrained student and every finished stage are compared."""
    data: DataConfig = MISSING
    """What models read, as in `lab distill`; with run=RUN, what that run was trained on."""
    layers: Any = None
    """Layers whose outputs are probed, from 1, or from -1 backwards; null: an early, a middle and a late one."""
    num_contexts: int = 1000
    """Windows of text, or samples of a task, that a model reads."""
    skip: int = 16
    """First tokens of a context that give no row."""
    answers_only: bool = False
    """Whether rows are only those whose next token is part of an answer."""
    target: Target = Target.next_embedding
    """What is predicted from states."""
    num_classes: int = 16
    """next_token: number of most frequent tokens that are classes; all others are one more."""
    unit_rows: bool | None = None
    """Whether each row is scaled to a root mean square of 1; null: states are, files are not."""
    variants: Any = field(default_factory=lambda: ["as_they_are"])
    """What the rows are: as_they_are, distinct (one row of each cluster), linear_labels (labels that fit the linear
    model, with noise of equal size), jitter (isotropic noise added), or drawn with the same moments: gaussian,
    elliptical (and the same scales), clustered (and the same clusters)."""
    jitter: float = 0.3
    """jitter: standard deviation of what is added, in units of the root mean square of the features."""
    basis: Basis = Basis.rotation
    """What the first p coordinates are."""
    widths: Any = None
    """p, numbers of features; null: from a small number to all of them, and on both sides of each number of rows."""
    num_train: Any = field(default_factory=lambda: [100, 200, 400])
    """n, numbers of training rows."""
    rows_per_context: int = 1
    """Training rows of one context."""
    ridge: Any = field(default_factory=lambda: [0.0, 0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0])
    """lambda of (X'X + n lambda I)^-1 X'Y; 0 is the minimum-norm head."""
    draws: int = 10
    """Number of draws of the training rows."""
    folds: int = 5
    """Folds of the cross-validation that choices are compared with; 0: none."""
    figures: Any = field(default_factory=lambda: ["risk_by_width", "risk_by_ridge"])
    """Figures to draw: risk_by_width, risk_by_ridge, layers (risk of each model, layer by layer), causes (the gap to
    Gaussian rows, by variant)."""
    precision: Precision | None = None
    """Precision of the weights; null: as stored."""
    seed: int = 0
    """Random seed of contexts, basis and draws."""
    device: str = "auto"
    """Where models run: cpu, cuda, or auto: cuda if there is a GPU."""
    threads: int | None = None
    """Number of torch threads; null: one per core."""
    products: str = "auto"
    """What computes linear layers: torch, onednn, native, packed, or auto: for large ones the fastest."""
    resume_on: ResumeOn = ResumeOn.same
    """same: a run that is resumed where its last digits would be others is refused; different: that is only said."""
    sinks: Any = field(default_factory=list)
    """Sinks that receive the rows besides metrics.jsonl, by the names of their files in core/runs/sinks."""

    def __post_init__(self) -> None:
        settle_lists(self, model=str, variants=str, figures=str, sinks=str, layers=int, widths=int, num_train=int)
        settle_lists(self, ridge=float)
        given = [key for key in ("features", "model", "run") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"give one of features=FILE, model=MODEL (model=shipped: the teacher that ships) and run=RUN, not "
                f"{' and '.join(given) or 'none'}"
            )
        for key in ("targets", "groups"):
            if getattr(self, key) is not None and self.features is None:
                raise ConfigError(f"{key}={getattr(self, key)} belongs to features=FILE; leave it out")
        if self.features is not None:
            self._refuse_keys_of_models()
        elif self.target is Target.teacher_state and self.run is None:
            raise ConfigError("target=teacher_state belongs to run=RUN, whose teacher and students are compared")
        for key, known in (("variants", VARIANTS), ("figures", FIGURES)):
            unknown = next((name for name in getattr(self, key) if name not in known), None)
            if unknown is not None:
                raise ConfigError(f"{key}={unknown}: choose from {', '.join(known)}")
        for key in ("num_train", "ridge", "variants", "widths", "model", "layers"):
            values = getattr(self, key)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ConfigError(f"{key}={values}: give one or more, each once")
        for key in ("figures", "sinks"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}={values}: give each once")
        counts = ("num_contexts", "rows_per_context", "num_classes", "widths", "threads")
        refuse_outside(self, *counts, at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "ridge", at_least=0, at_most=_LARGEST_RIDGE)
        for number in self.num_train:
            if number < 4 or number % self.rows_per_context:
                raise ConfigError(
                    f"num_train={number}: give 4 rows or more, and whole contexts of "
                    f"rows_per_context={self.rows_per_context} rows"
                )
        contexts = min(self.num_train) // self.rows_per_context
        if contexts < 2:
            raise ConfigError(
                f"rows_per_context={self.rows_per_context}: a draw of num_train={min(self.num_train)} rows is one "
                "context, of which none can be left out; lower it"
            )
        refuse_outside(self, "skip", at_least=0, at_most=LARGEST_COUNT)
        refuse_outside(self, "draws", at_least=2, at_most=LARGEST_COUNT)
        refuse_outside(self, "jitter", at_least=0, at_most=1e3)
        refuse_outside(self, "seed", at_least=0, at_most=LARGEST_SEED)
        if self.folds != 0 and not 2 <= self.folds <= contexts:
            unit = "rows" if self.rows_per_context == 1 else "contexts"
            raise ConfigError(
                f"folds={self.folds}: give 2 to {contexts}, the number of {unit} of the smallest draw, or 0 for none"
            )
        current.refuse_unknown(self.products)
        refuse_unknown(self.sinks)

    def _refuse_keys_of_models(self) -> None:
        """Refuse what would be left unread with a file."""
        for field_of in fields(self):
            value = getattr(self, field_of.name)
            if field_of.name in _OF_MODELS and value != field_of.default:
                shown = value.value if isinstance(value, Enum) else value
                raise ConfigError(f"{field_of.name}={shown} belongs to model=MODEL or run=RUN; leave it out")

    @property
    def is_of_states(self) -> bool:
        """Whether rows are states of models."""
        return self.features is None


@cache
def register() -> None:
    """Store the schema, so that Hydra refuses a misspelt key with its full path."""
    register_schema("probe_schema", ProbeConfig)
