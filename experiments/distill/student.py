"""A student: the teacher with its attention replaced by other mixers, and the parameters that each stage trains.

Frozen tensors share storage with the teacher; tensors that any stage trains are the student's own.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema
from lab.core.mixers.base import Mixer
from lab.core.mixers.initialisation import Initialisation
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.spec import MixerSpec, mixer_like, mixer_spec, mixers
from lab.core.models.decoder import LanguageModel
from lab.core.parallel.layout import cut_modules, whole
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.placement import HybridConfig

STAGES = (1, 2, 3)
# the paper's layer
DEFAULT_MIXER = "mamba2"


@dataclass(kw_only=True, slots=True)
class StudentConfig:
    """How a student is built from a teacher."""

    initialisation: Initialisation = Initialisation.mimic
    """Initialisation of the mixers."""
    mixer: Any = None
    """MixerOptions, chosen by the configuration group `student/mixer`; null: mmMamba's layer."""
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    """Layers that are softmax attention again from stage 3 on."""

    def __post_init__(self) -> None:
        if self.mixer is None:
            self.mixer = mixer_spec(DEFAULT_MIXER).options()
        if not isinstance(self.mixer, MixerOptions):
            raise ConfigError(f"student.mixer={self.mixer}: choose student/mixer={' or '.join(sorted(mixers()))}")

    @property
    def spec(self) -> MixerSpec:
        """What the project knows of the mixer's kind."""
        return mixer_spec(self.mixer.kind)


def register() -> None:
    """Register the schemas of the configuration groups `student` and `student/mixer` with Hydra."""
    register_schema("student_schema", StudentConfig, group="student")
    for spec in mixers().values():
        register_schema(f"{spec.kind}_schema", spec.options, group="student/mixer")


def build_student(
    teacher: LanguageModel,
    config: StudentConfig,
    *,
    seeds: Seeds,
    finish: Callable[[Mixer], None] = lambda mixer: None,
) -> LanguageModel:
    """An initialised student, linear in every layer, frozen, in the teacher's training mode.

    Args:
        teacher: softmax attention in every layer; it must not be trained further, since the student shares its storage.
        config: initialisation and options of the mixers, and backends of the operators.
        seeds: each layer draws from a separate stream, so layers are independent.
        finish: is given each mixer with its initial values, before the next one is made.

    Raises:
        BackendError: if a backend requested by name cannot run on the teacher's device.
        ConfigError: if the options need a feature that the teacher's attention lacks, or the mixer lacks one it has.
    """
    student = copy.deepcopy(teacher, _shared_memory(teacher))
    for layer in student.mixer_layers():
        attention = layer.layer.mixer
        mixer = mixer_like(attention, config.mixer, where=f"the teacher's {layer.name}")
        theirs = {name: whole(tensor) for name, tensor in attention.state_dict(keep_vars=True).items()}
        generator = seeds.torch("student", layer.index)
        weights = config.spec.initial_weights(
            {name: tensor.detach() for name, tensor in theirs.items()},
            attention.shape,
            config.mixer,
            config.initialisation,
            generator,
        )
        output = {f"o_proj.{name}": theirs[f"wo.{name}"] for name in ("weight", "bias") if f"wo.{name}" in theirs}
        mixer.load_state_dict(weights | output, assign=True)
        layer.layer.mixer = mixer.requires_grad_(False).train(student.training)
        mixer.choose_backends()
        finish(mixer)
    return student


def keep_softmax(student: LanguageModel, teacher: LanguageModel, layers: Collection[int]) -> None:
    """Put the teacher's attention back into these layers, unchanged and frozen (section 4.5 of the paper)."""
    ours, theirs = student.mixer_layers(), teacher.mixer_layers()
    # one memo for all layers, so that shared rotary tables stay shared
    memo = _shared_memory(teacher)
    for index in layers:
        ours[index].layer.mixer = copy.deepcopy(theirs[index].layer.mixer, memo)


def trainable_names(student: LanguageModel, stage: int, *, train_decay: bool) -> tuple[str, ...]:
    """The parameters that a stage trains (section 4 of the paper).

    Stage 1 trains the mixers' new parameters, stage 2 the query, key and value projections too, stage 3 the same except
    A_log and dt_bias.

    Args:
        student: its softmax attention layers have no trained parameters.
        stage: 1, 2 or 3.
        train_decay: whether stage 3 trains A_log and dt_bias too, as in equation 5 of the paper but not in its code.

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
    """The tensors that a student does not share with its teacher: exactly what stages train and checkpoints hold."""
    state = student.state_dict()
    return {name: state[name] for name in _parameters_named(student, lambda spec: spec.new | spec.inherited)}


def _parameters_named(student: LanguageModel, chosen: Callable[[MixerSpec], Collection[str]]) -> tuple[str, ...]:
    """The parameters of converted layers whose names `chosen` selects for their mixer."""
    return tuple(
        f"{layer.name}.mixer.{name}"
        for layer in student.converted_layers()
        for name, _ in layer.layer.mixer.named_parameters()
        if name in chosen(mixer_spec(layer.layer.mixer.kind))
    )


def _shared_memory(teacher: LanguageModel) -> dict[int, nn.Module | nn.Parameter]:
    """A memo for deepcopy: copies get separate frozen parameters that share the teacher's storage.

    Modules that are cut into parts cannot be copied: these are the teacher's.
    """
    frozen = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in teacher.parameters()
        if not hasattr(parameter, "full_tensor")
    }
    return {**frozen, **cut_modules(teacher)}
