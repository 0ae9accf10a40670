"""A student: the teacher with other mixers in place of attention, and what each stage trains of it.

Frozen tensors share storage with the teacher; every tensor that a stage trains is the student's.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema
from lab.core.mixers.initialisation import Initialisation
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.spec import MixerSpec, mixer_like, mixer_spec, mixers
from lab.core.models.decoder import LanguageModel
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.placement import HybridConfig

STAGES = (1, 2, 3)
# the layer of the paper
DEFAULT_MIXER = "mamba2"


@dataclass(kw_only=True, slots=True)
class StudentConfig:
    """How a student is made of a teacher."""

    initialisation: Initialisation = Initialisation.mimic
    """What the mixers start from."""
    mixer: Any = None
    """MixerOptions: the configuration group `student/mixer` decides which; None: mmMamba's layer."""
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    """Layers that are softmax attention again from stage 3 on."""

    def __post_init__(self) -> None:
        if self.mixer is None:
            self.mixer = mixer_spec(DEFAULT_MIXER).options()
        if not isinstance(self.mixer, MixerOptions):
            raise ConfigError(f"student.mixer={self.mixer}: choose student/mixer={' or '.join(sorted(mixers()))}")

    @property
    def spec(self) -> MixerSpec:
        """Of the mixer."""
        return mixer_spec(self.mixer.kind)


def register() -> None:
    """Make the schemas of the configuration groups `student` and `student/mixer` known to Hydra."""
    register_schema("student_schema", StudentConfig, group="student")
    for spec in mixers().values():
        register_schema(f"{spec.kind}_schema", spec.options, group="student/mixer")


def build_student(teacher: LanguageModel, config: StudentConfig, *, seeds: Seeds) -> LanguageModel:
    """An initialised student, linear in every layer, frozen and in the mode of the teacher.

    Args:
        teacher: softmax attention in every layer; it must not be trained any more, since the student reads its memory.
        config: initialisation and variants of the mixers, and implementations of the operators.
        seeds: each layer draws from a separate stream, so that no layer depends on another.

    Raises:
        BackendError: if an implementation that is asked for by name cannot run where the teacher is.
        ConfigError: if the options ask for what the teacher's attention does not have, or the mixer drops what it has.
    """
    student = copy.deepcopy(teacher, _shared_memory(teacher))
    for layer in student.mixer_layers():
        attention = layer.layer.mixer
        mixer = mixer_like(attention, config.mixer, where=f"the teacher's {layer.name}")
        theirs = attention.state_dict(keep_vars=True)
        generator = seeds.torch("student", layer.index)
        weights = config.spec.initial_weights(
            attention.state_dict(), attention.shape, config.mixer, config.initialisation, generator
        )
        output = {f"o_proj.{name}": theirs[f"wo.{name}"] for name in ("weight", "bias") if f"wo.{name}" in theirs}
        mixer.load_state_dict(weights | output, assign=True)
        layer.layer.mixer = mixer.requires_grad_(False).train(student.training)
    student.choose_backends()
    return student


def keep_softmax(student: LanguageModel, teacher: LanguageModel, layers: Collection[int]) -> None:
    """Give these layers of a student the teacher's attention back, untouched and frozen (section 4.5 of the paper)."""
    ours, theirs = student.mixer_layers(), teacher.mixer_layers()
    # one memo for all: layers that share their rotary tables go on sharing them
    memo = _shared_memory(teacher)
    for index in layers:
        ours[index].layer.mixer = copy.deepcopy(theirs[index].layer.mixer, memo)


def trainable_names(student: LanguageModel, stage: int, *, train_decay: bool) -> tuple[str, ...]:
    """The parameters that a stage trains (section 4 of the paper).

    Stage 1 trains what is new in the mixers, stage 2 the projections of queries, keys and values too, stage 3 the same
    but for A_log and dt_bias.

    Args:
        student: layers that are softmax attention have no such parameters.
        stage: 1, 2 or 3.
        train_decay: whether stage 3 trains A_log and dt_bias too; equation 5 of the paper says so, the public code
            does not.

    Raises:
        ConfigError: for another stage.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage={stage} does not exist; choose from {', '.join(map(str, STAGES))}")
    return _parameters_named(
        student,
        lambda spec: (
            (spec.new if stage == 1 else spec.new | spec.inherited)
            - (spec.decay if stage == 3 and not train_decay else frozenset())
        ),
    )


def set_trainable(student: LanguageModel, names: Collection[str]) -> dict[str, nn.Parameter]:
    """Freeze everything but these parameters and return them."""
    parameters = dict(student.named_parameters())
    student.requires_grad_(False)
    chosen = {name: parameters[name] for name in names}
    for parameter in chosen.values():
        parameter.requires_grad_()
    return chosen


def own_tensors(student: LanguageModel) -> dict[str, Tensor]:
    """What a student does not share with its teacher: all that any stage trains. A checkpoint needs nothing else."""
    state = student.state_dict()
    return {name: state[name] for name in _parameters_named(student, lambda spec: spec.new | spec.inherited)}


def _parameters_named(student: LanguageModel, chosen: Callable[[MixerSpec], Collection[str]]) -> tuple[str, ...]:
    """The parameters of converted layers whose names `chosen` gives for their mixer."""
    return tuple(
        f"{layer.name}.mixer.{name}"
        for layer in student.converted_layers()
        for name, _ in layer.layer.mixer.named_parameters()
        if name in chosen(mixer_spec(layer.layer.mixer.kind))
    )


def _shared_memory(teacher: LanguageModel) -> dict[int, nn.Parameter]:
    """A memo for deepcopy: copies have parameters of their own, frozen, in the memory of the teacher's."""
    return {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in teacher.parameters()}
