"""The models of an evaluation: those that were named, and what is made of the teacher without training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import torch

from lab.core.errors import ConfigError
from lab.experiments.distill.baselines import windows_of_equal_memory, with_window, with_windows
from lab.experiments.distill.data import PromptConfig
from lab.experiments.distill.load import FoundModel, find_model, refuse_unknown
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.selector import ALL_REPLICATES, SELECTED, selected
from lab.experiments.distill.sources import find_recorded
from lab.experiments.eval.config import EQUAL_MEMORY, IMAGE_ABLATED, WINDOWED, EvalConfig
from lab.experiments.eval.seeds import groups_of


class Role(StrEnum):
    """What a model is in the table."""

    teacher = "teacher"
    image_ablated = IMAGE_ABLATED
    windowed = WINDOWED
    equal_memory = EQUAL_MEMORY
    model = "model"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that answers.

    Attributes:
        label: in tables.
        role: of the model.
        word: its name as it was typed.
        student: with equal memory, whose it is.
        windows: with equal memory, of each layer; see `sized`.
    """

    label: str
    role: Role
    word: str
    student: str = ""
    windows: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_windowed(self) -> bool:
        """Whether attention is cut to a window, so that it is computed over whole sequences."""
        return self.role in (Role.windowed, Role.equal_memory)

    def find(self) -> FoundModel:
        """The model without its weights.

        Raises:
            LabError: as `find_model`.
        """
        return find_model(*selected(self.word))

    def open(self, config: EvalConfig, device: torch.device, teacher: OpenedModel | None) -> OpenedModel:
        """The model, ready to answer.

        Args:
            config: its precision, and how prompts are written.
            device: of the weights.
            teacher: opened before, whose weights baselines share; None for the teacher itself, or without one.

        Raises:
            LabError: as `open_model`.
        """
        if self.role not in (Role.teacher, Role.model):
            assert teacher is not None, "it comes first"
            if self.role is Role.image_ablated:
                return teacher
            if self.role is Role.equal_memory:
                return replace(teacher, model=with_windows(teacher.model, self.windows, num_sinks=config.num_sinks))
            return replace(teacher, model=with_window(teacher.model, window=config.window, num_sinks=config.num_sinks))
        found = self.find()
        system = found.prompt.system if config.system is None else config.system
        prompt = PromptConfig(system=system, max_tiles=found.prompt.max_tiles)
        return OpenedModel(found.load(device, config.precision), found.tokenizer, prompt, found.stop_ids)

    def sized(self, config: EvalConfig, device: torch.device, teacher: OpenedModel | None) -> "Candidate":
        """Itself, with equal memory with the windows that the student's states allow; loads the student for that.

        Raises:
            ConfigError: if a state has no room for a window.
            LabError: as `open_model`.
        """
        if self.role is not Role.equal_memory:
            return self
        assert teacher is not None, "it comes first"
        student = Candidate(self.student, Role.model, self.student).open(config, device, None).model
        windows = windows_of_equal_memory(student, teacher.model, num_sinks=config.num_sinks)
        return replace(self, windows=windows)


def refuse_unknown_words(config: EvalConfig) -> None:
    """Refuse words that name no model, before any tokenizer, weights or task are read.

    Raises:
        LabError: as `find_model`.
    """
    for word in (*([] if config.against is None else [config.against]), *config.models):
        for one in _replicates(word):
            refuse_unknown(*selected(one))


def candidates(config: EvalConfig) -> list[Candidate]:
    """The models in the order of their work: the teacher and its baselines first.

    Raises:
        ConfigError: if two have one label, or no model is a student whose memory a baseline could have.
        LabError: as `find_model`, of models that have to be looked at.
    """
    words = list(dict.fromkeys(one for word in config.models for one in _replicates(word)))
    # a teacher that is named among the models is there already
    models = [Candidate(word, Role.model, word) for word in words if word != config.against]
    found: list[Candidate] = []
    if config.against is not None:
        teacher = Candidate(config.against, Role.teacher, config.against)
        found.append(teacher)
        if IMAGE_ABLATED in config.baselines:
            found.append(Candidate(f"{config.against}, images ablated", Role.image_ablated, config.against))
        if WINDOWED in config.baselines:
            label = f"{config.against}, window {config.window} + {config.num_sinks}"
            found.append(Candidate(label, Role.windowed, config.against))
        if EQUAL_MEMORY in config.baselines:
            found += _of_equal_memory(teacher, models)
    found += models
    labels = [candidate.label for candidate in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"models={twice} is the name of a baseline of the teacher; rename the folder, or link to it")
    return found


def _of_equal_memory(teacher: Candidate, models: Sequence[Candidate]) -> list[Candidate]:
    """A baseline for each student of the teacher; replicates of one have states of one size, and share theirs."""
    labels = [model.label for model in models]
    groups = groups_of(labels)
    first = {members[0]: group for group, members in groups.items()}
    later = {label for members in groups.values() for label in members[1:]}
    architecture = teacher.find().architecture
    found = []
    for model in models:
        if model.label in later:
            continue
        its = model.find()
        if its.is_student and its.architecture == architecture:
            label = f"{teacher.label}, memory of {first.get(model.label, model.label)}"
            found.append(Candidate(label, Role.equal_memory, teacher.word, student=model.word))
    if not found:
        raise ConfigError(
            f"baselines={EQUAL_MEMORY}: none of {', '.join(labels)} is a student of {teacher.word}; leave it out, or "
            "name one"
        )
    return found


def _replicates(word: str) -> list[str]:
    """The words that a word with * in the place of a replicate stands for; any other stands for itself."""
    matched = None if Path(word).exists() else SELECTED.fullmatch(word)
    if matched is None or matched["replicate"] != ALL_REPLICATES:
        return [word]
    number = find_recorded(matched["name"]).config.replicates
    return [f"{word.removesuffix(ALL_REPLICATES)}{replicate}" for replicate in range(number)]
