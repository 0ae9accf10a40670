"""A student: the teacher with Mamba-2 mixers in place of attention, and what each stage trains of it.

Tensors that no stage trains are the teacher's own, in the same memory; every tensor that a stage trains is the
student's.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor, nn

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema
from lab.core.mixers.mamba2 import Mamba2, Mamba2Kernels, Mamba2Options
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import LanguageModel
from lab.core.models.hybrid import choose_backends, layers_of_kind, mamba2_like
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.placement import HybridConfig
from lab.experiments.distill.seeding import Initialisation, seed

# by the names of a mixer's parameters; the output projection is in none: it is never trained
DECAY = frozenset({"A_log", "dt_bias"})
NEW = DECAY | {"conv1d.weight", "conv1d.bias", "in_proj.weight", "D", "g_norm.weight", "g_proj.weight"}
INHERITED = frozenset({"vkq_proj.weight", "vkq_proj.bias"})
STAGES = (1, 2, 3)


@dataclass(kw_only=True, slots=True)
class StudentConfig:
    """How a student is made of a teacher."""

    initialisation: Initialisation = Initialisation.mimic
    """What the mixers start from."""
    mixer: Mamba2Options = field(default_factory=Mamba2Options)
    """Variants of the mixer."""
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    """Layers that are softmax attention again from stage 3 on."""
    kernels: Mamba2Kernels = field(default_factory=Mamba2Kernels)
    """Implementations of the mixer's operators."""


def register() -> None:
    """Make the schema of the configuration group `student` known to Hydra."""
    register_schema("student_schema", StudentConfig, group="student")


def build_student(teacher: LanguageModel, config: StudentConfig, *, seeds: Seeds) -> LanguageModel:
    """A seeded student, linear in every layer, frozen and in the mode of the teacher.

    Args:
        teacher: softmax attention in every layer; it must not be trained any more, since the student reads its memory.
        config: initialisation and variants of the mixers, and implementations of the operators.
        seeds: every layer has a stream of its own, so that a layer does not depend on the others.

    Raises:
        BackendError: if an implementation that is asked for by name cannot run where the teacher is.
        ConfigError: if the options ask for what the teacher's attention does not have.
    """
    student = copy.deepcopy(teacher, _shared_memory(teacher))
    for layer in student.mixer_layers():
        attention = layer.layer.mixer
        assert isinstance(attention, SoftmaxAttention), "a teacher has no other"
        mixer = mamba2_like(attention, config.mixer)
        weights = seed(
            attention.state_dict(),
            attention.shape,
            options=config.mixer,
            initialisation=config.initialisation,
            generator=seeds.torch("student", layer.index),
        )
        mixer.load_state_dict(weights | {"o_proj.weight": attention.wo.weight}, assign=True)
        layer.layer.mixer = mixer.requires_grad_(False).train(student.training)
    choose_backends(student, config.kernels)
    return student


def keep_softmax(student: LanguageModel, teacher: LanguageModel, layers: Collection[int]) -> None:
    """Give these layers of a student the teacher's attention again, untouched and frozen (section 4.5 of the paper)."""
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
    parts = NEW if stage == 1 else NEW | INHERITED
    if stage == 3 and not train_decay:
        parts -= DECAY
    return _parameters_named(student, parts)


def set_trainable(student: LanguageModel, names: Collection[str]) -> dict[str, nn.Parameter]:
    """Freeze everything but these parameters, and return them."""
    parameters = dict(student.named_parameters())
    student.requires_grad_(False)
    chosen = {name: parameters[name] for name in names}
    for parameter in chosen.values():
        parameter.requires_grad_()
    return chosen


def own_tensors(student: LanguageModel) -> dict[str, Tensor]:
    """What a student does not share with its teacher: all that any stage trains. A checkpoint needs nothing else."""
    state = student.state_dict()
    return {name: state[name] for name in _parameters_named(student, NEW | INHERITED)}


def _parameters_named(student: LanguageModel, parts: Collection[str]) -> tuple[str, ...]:
    return tuple(
        f"{layer.name}.mixer.{name}"
        for layer in layers_of_kind(student, Mamba2.kind)
        for name, _ in layer.layer.mixer.named_parameters()
        if name in parts
    )


def _shared_memory(teacher: LanguageModel) -> dict[int, nn.Parameter]:
    """A memo for deepcopy: copies have parameters of their own, frozen, in the memory of the teacher's."""
    return {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in teacher.parameters()}
