"""The models of a probe: those that are named, or the teacher and every stage of a student of a run."""

from dataclasses import dataclass
from itertools import product

import torch

from lab.core.data.texts import TextConfig
from lab.core.errors import ConfigError, RunError
from lab.core.models.config import max_length
from lab.core.models.folder import Precision
from lab.experiments.distill.data_sources import DataConfig
from lab.experiments.distill.load import FoundModel, find_in_run, find_model, refuse_unknown
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.selector import StudentSelector, selected
from lab.experiments.distill.sources import RecordedRun, choose_node, find_recorded
from lab.experiments.probe.config import ProbeConfig, Target

TEACHER, UNTRAINED = "teacher", "untrained student"
_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model whose states are probed.

    Attributes:
        label: in tables.
        found: the model without its weights.
        precision: of its weights; None for that of its files.
        data: what it reads, if the configuration does not say.
    """

    label: str
    found: FoundModel
    precision: Precision | None
    data: DataConfig | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of features behind each layer."""
        stacks = self.found.architecture.decoders
        return tuple(stack.hidden_size for stack in stacks for _ in range(stack.num_layers))

    def open(self, device: torch.device) -> OpenedModel:
        """The model on a device."""
        found = self.found
        return OpenedModel(found.load(device, self.precision), found.tokenizer, found.prompt, found.stop_ids)


def named_models(config: ProbeConfig) -> list[NamedModel]:
    """The models of a configuration, without their weights.

    Raises:
        LabError: as `find_model`; and if a run has no students.
    """
    if config.run is not None:
        return _of_run(config, config.run)
    assert config.model is not None, "one of them is given"
    config.data.refuse_missing()
    for word in config.model:
        refuse_unknown(*selected(word))
    return [_named(config, word, find_model(*selected(word)), None) for word in config.model]


def _of_run(config: ProbeConfig, name: str) -> list[NamedModel]:
    run = find_recorded(name)
    if run.teacher_folder is not None:
        raise ConfigError(f"run={name} trained a teacher, not a student; give model={run.teacher_folder}")
    data = run.config.data
    data.refuse_missing()
    teacher = find_model(str(run.config.teacher.path), StudentSelector())
    found = [_named(config, TEACHER, teacher, data)]
    missing: list[str] = []
    for stage, variants in _stages_of(run, missing).items():
        for variant in variants:
            student = find_in_run(run, StudentSelector(stage, variant or None))
            words = UNTRAINED if stage == 0 else f"after stage {stage}"
            found.append(_named(config, f"{variant}, {words}" if len(variants) > 1 else words, student, data))
    if len(found) == 1:
        raise RunError(missing[0])
    return found


def _stages_of(run: RecordedRun, missing: list[str]) -> dict[int, list[str]]:
    """The finished stages of a run, with one variant for each student of the stage: variants share earlier stages.

    Args:
        run: of students.
        missing: why there are no others, which is added to it.
    """
    found: dict[int, dict[str, str]] = {}
    labels = dict.fromkeys(student.label for student in run.students)
    for stage, label in product(_STAGES, labels):
        try:
            found.setdefault(stage, {}).setdefault(choose_node(run, StudentSelector(stage, label or None)).key, label)
        except RunError as error:
            missing.append(str(error))
    return {stage: list(variants.values()) for stage, variants in found.items()}


def _named(config: ProbeConfig, label: str, found: FoundModel, data: DataConfig | None) -> NamedModel:
    longest = max_length(found.architecture)
    text = None if data is not None else config.data.options
    if isinstance(text, TextConfig) and text.piece_length > longest:
        raise ConfigError(
            f"data.text.piece_length={text.piece_length}: {label} was trained on at most {longest} tokens; lower it"
        )
    if config.skip + 2 > longest:
        raise ConfigError(f"skip={config.skip}: {label} was trained on at most {longest} tokens; lower it")
    vocabulary = found.architecture.decoders[-1].vocab_size
    if config.target is Target.next_token and config.num_classes >= vocabulary:
        raise ConfigError(f"num_classes={config.num_classes}: {label} knows {vocabulary} tokens; lower it")
    return NamedModel(label, found, config.precision, data)
