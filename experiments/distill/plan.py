"""The plan of a run in several processes, from the architecture alone: what is trained, what each process holds.

Models are built on the meta device, so that a plan of any size takes a moment and no memory.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lab.core.errors import ConfigError
from lab.core.hydra_schema import to_typed
from lab.core.mixers.spec import mixer_like
from lab.core.models.config import ModelConfig
from lab.core.models.config import max_length as longest_sample
from lab.core.models.decoder import LanguageModel
from lab.core.models.spec import build
from lab.core.parallel.config import refuse_uneven
from lab.core.runs.json_files import Entry
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.process_memory import FLOAT32, MOMENTS, Numbers, Spread, own_size
from lab.experiments.distill.sizes import batch_bytes, num_uncut
from lab.experiments.distill.stage_graph import HYBRID_FROM
from lab.experiments.distill.student import set_trainable, trainable_names
from lab.experiments.distill.teacher import open_teacher

if TYPE_CHECKING:
    from omegaconf import DictConfig

_GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage of a run, with sizes in bytes; `a_process` is what one process holds, the rest is of the whole.

    Attributes:
        stage: 1, 2 or 3.
        parameters: of the student.
        trained: parameters among them.
        teacher_bytes: weights of the teacher.
        student_bytes: weights of the student in the precision of its products, those that it shares with the teacher
            included.
        gradient_bytes: gradients in that precision.
        optimizer_bytes: trained tensors in float32 and their moments.
        logits_bytes: of one model at every position of the longest sample, in that precision and in float32; a step
            computes them for `chunk_size` positions at a time.
        chunk_bytes: of both models and their softmax, for these positions.
        steps: optimizer steps.
        samples: that they read.
        batches: of a step, in each process.
        frozen_a_process: weights that are not trained, of both models together.
        trained_a_process: trained tensors and moments.
        gradients_a_process: in the precision of the trained tensors.
        batch_a_process: what a batch of longest samples adds, logits of a chunk included: the estimate that a run is
            refused by.
        written_by_first: the copy that the first of several processes writes as a checkpoint beside the next steps.
    """

    stage: int
    parameters: int
    trained: int
    teacher_bytes: int
    student_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    logits_bytes: int
    chunk_bytes: int
    steps: int
    samples: int
    batches: int
    frozen_a_process: int
    trained_a_process: int
    gradients_a_process: int
    batch_a_process: int
    written_by_first: int

    @property
    def share(self) -> float:
        """Trained parameters as a fraction of the student's."""
        return self.trained / self.parameters

    @property
    def bytes_a_process(self) -> int:
        """All that a process holds between two batches."""
        return self.frozen_a_process + self.trained_a_process + self.gradients_a_process


def plans(config: DistillConfig, architecture: ModelConfig, *, processes: int, max_length: int) -> list[StagePlan]:
    """The plan of each stage of a run's first student.

    Args:
        config: of the run.
        architecture: of its teacher.
        processes: that share the work.
        max_length: tokens of the longest sample.
    """
    first = next(iter(config.of_variants().values()))
    return [_plan(first, architecture, stage, processes, max_length) for stage in first.stage_numbers]


def _plan(config: DistillConfig, architecture: ModelConfig, stage: int, processes: int, max_length: int) -> StagePlan:
    dtype = config.teacher.precision.dtype
    teacher = build(architecture, dtype=dtype)
    student = _student(config, architecture, stage)
    recipe = config.recipe(stage)
    trained = set_trainable(student, trainable_names(student, stage, train_decay=recipe.train_decay)).values()
    num_trained, num_all = _number(trained), _number(student.parameters())
    size = dtype.itemsize
    own, output = _own_numbers(student)
    numbers = Numbers(
        teacher=_number(teacher.parameters()),
        uncut=num_uncut(architecture),
        own=own,
        output=output,
        trained=num_trained,
        size=size,
        own_size=own_size(dtype, autocast=recipe.autocast),
    )
    spread = Spread.of(config.parallel, processes)
    memory = numbers.memory(spread)
    vocabulary = architecture.decoders[-1].vocab_size
    return StagePlan(
        stage=stage,
        parameters=num_all,
        trained=num_trained,
        teacher_bytes=numbers.teacher * size,
        student_bytes=num_all * size,
        gradient_bytes=num_trained * size,
        optimizer_bytes=num_trained * (1 + MOMENTS) * FLOAT32,
        logits_bytes=max_length * vocabulary * (size + FLOAT32),
        chunk_bytes=6 * FLOAT32 * min(recipe.chunk_size, max_length) * vocabulary,
        steps=recipe.steps,
        samples=recipe.steps * recipe.accumulation * recipe.batch_size,
        batches=recipe.accumulation // processes,
        frozen_a_process=memory.teacher + memory.untrained,
        trained_a_process=memory.trained,
        gradients_a_process=memory.gradients,
        batch_a_process=round(batch_bytes(config, architecture, f"stage_{stage}", max_length, spread)),
        written_by_first=memory.written,
    )


def _student(config: DistillConfig, architecture: ModelConfig, stage: int) -> LanguageModel:
    """The student of a stage, without numbers in its tensors."""
    student = build(architecture, dtype=config.teacher.precision.dtype)
    layers = student.mixer_layers()
    kept = softmax_layers(config.student.hybrid, len(layers)) if stage >= HYBRID_FROM else ()
    for layer in layers:
        if layer.index not in kept:
            layer.layer.mixer = mixer_like(layer.layer.mixer, config.student.mixer, where=f"the teacher's {layer.name}")
    return student


def _own_numbers(student: LanguageModel) -> tuple[int, int]:
    """Numbers of the student's mixers, and of their output projections, which are the teacher's."""
    counts = {True: 0, False: 0}
    for layer in student.converted_layers():
        for name, parameter in layer.layer.mixer.named_parameters():
            counts[name.startswith("o_proj")] += parameter.numel()
    return counts[False], counts[True]


def _number(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


_WHOLE: dict[str, Callable[[StagePlan], Entry]] = {
    "parameters": lambda plan: f"{plan.parameters:,}",
    "trained": lambda plan: f"{plan.trained:,}",
    "share %": lambda plan: f"{100 * plan.share:.2f}",
    "teacher GB": lambda plan: _giga(plan.teacher_bytes),
    "student GB": lambda plan: _giga(plan.student_bytes),
    "gradients GB": lambda plan: _giga(plan.gradient_bytes),
    "float32 and moments GB": lambda plan: _giga(plan.optimizer_bytes),
    "logits GB": lambda plan: _giga(plan.logits_bytes),
}
_OWN: dict[str, Callable[[StagePlan], Entry]] = {
    "steps": lambda plan: f"{plan.steps:,}",
    "samples": lambda plan: f"{plan.samples:,}",
    "batches a step": lambda plan: str(plan.batches),
    "frozen GB": lambda plan: _giga(plan.frozen_a_process),
    "trained and moments GB": lambda plan: _giga(plan.trained_a_process),
    "gradients GB": lambda plan: _giga(plan.gradients_a_process),
    "sum GB": lambda plan: _giga(plan.bytes_a_process),
    "a batch GB": lambda plan: _giga(plan.batch_a_process),
    "of it logits GB": lambda plan: _giga(plan.chunk_bytes) if plan.stage == 3 else None,
}


def _giga(num_bytes: int) -> str:
    return f"{num_bytes / _GIGA:.3f}"


def print_plan(config: "DictConfig", processes: int, *, as_json: bool) -> None:
    """Print the plan of a composed configuration.

    Args:
        config: as composed.
        processes: that share the work.
        as_json: whether for other programs.

    Raises:
        LabError: for what a run would refuse about the configuration, the teacher's config.json and the batches.
    """
    # as in a run
    from lab.core.runs.console import print_summary  # noqa: PLC0415

    settings = to_typed(config, DistillConfig)
    if not settings.stage_numbers:
        raise ConfigError(f"--plan with stage={settings.stage}: no student is trained; choose 1, 2, 3 or all")
    for stage in settings.stage_numbers:
        refuse_uneven(f"stage_{stage}", settings.recipe(stage).accumulation, processes)
    architecture = open_teacher(settings.teacher, device=torch.device("cpu"), seed=settings.seed).architecture
    length = settings.prompt.max_length or longest_sample(architecture)
    found = plans(settings, architecture, processes=processes, max_length=length)
    if as_json:
        fields = ({**asdict(plan), "share": plan.share, "bytes_a_process": plan.bytes_a_process} for plan in found)
        print(json.dumps({"processes": processes, "max_length": length, "stages": list(fields)}, indent=2))
        return
    where = f"each of {processes} processes" if processes > 1 else "one process"
    parallel = settings.parallel
    how = f"strategy {parallel.strategy.value}, frozen {parallel.frozen.value}"
    for block, columns in (("the whole", _WHOLE), (where, _OWN)):
        body = [[block, plan.stage, *(value(plan) for value in columns.values())] for plan in found]
        print_summary("", ["", "stage", *columns], body, [], [])
    lines = [f"{how}; samples of at most {length:,} tokens, in batches of that length; GB are 10^9 bytes"]
    if processes > 1:
        copied = max(plan.written_by_first for plan in found)
        lines.append(f"the first process copies {_giga(copied)} GB to the CPU for each checkpoint, besides")
    print_summary("", [], [], lines, [])
