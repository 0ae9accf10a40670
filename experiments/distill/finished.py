"""Students of recorded runs, as their last step left them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from lab.core.errors import CheckpointError, ConfigError, RunError
from lab.core.hydra_schema import to_typed
from lab.core.models.decoder import LanguageModel
from lab.core.runs.find import find_run
from lab.core.train.state import checkpoints, load_tensors, read_meta
from lab.experiments.distill.config import TEACHER, DistillConfig
from lab.experiments.distill.lineage import seeded_student
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.stage_graph import Node, students
from lab.experiments.distill.student import keep_softmax, own_tensors
from lab.experiments.distill.teacher import digest, load_teacher


@dataclass(frozen=True, slots=True)
class Choice:
    """Which student of a run.

    Attributes:
        stage: after which it is taken, 0 for the seed; None for the last that is finished.
        variant: its label; None where there is one only.
        replicate: of its random numbers.
    """

    stage: int | None = None
    variant: str | None = None
    replicate: int = 0

    @property
    def is_any(self) -> bool:
        """Whether nothing was asked for."""
        return self == Choice()


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run of `lab distill`.

    Attributes:
        folder: where it is.
        config: under which it ran.
    """

    folder: Path
    config: DistillConfig

    @property
    def teacher_folder(self) -> Path | None:
        """Where `stage=teacher` left its teacher; None for a run of students."""
        return self.folder / "teacher" if self.config.stage == TEACHER else None


def find_recorded(name: str) -> RecordedRun:
    """The run that a directory, or the end of a name, means.

    Raises:
        RunError: if there is none, or it is no run of `lab distill`.
    """
    folder = find_run(name)
    if (folder / "multirun.yaml").exists():
        raise RunError(f"{folder} is a sweep; give one of the runs in it, such as {folder / '0'}")
    try:
        recorded = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder}/config.json is missing or damaged: this is neither a run, which `lab runs` lists, nor a "
            "checkpoint folder; give one"
        ) from error
    if not isinstance(recorded, dict) or "teacher" not in recorded:
        raise RunError(f"{folder} is no run of `lab distill`; `lab runs --study distill` lists those")
    return RecordedRun(folder, _typed(recorded, folder))


def choose_node(run: RecordedRun, choice: Choice) -> Node:
    """The stage of a student whose end is asked for.

    Raises:
        RunError: if the run has no such student, or it is not finished.
    """
    folder, config = run.folder, run.config
    if config.stage == TEACHER:
        raise RunError(f"{folder} trained a teacher and no student; its checkpoint folder is {run.teacher_folder}")
    found = students(config)
    labels = list(dict.fromkeys(student.label for student in found))
    if choice.variant is None and len(labels) > 1:
        raise RunError(f"{folder} has {len(labels)} students; choose one with --variant: {', '.join(labels)}")
    label = labels[0] if choice.variant is None else choice.variant
    if label not in labels:
        has = f"choose from {', '.join(labels)}" if labels[0] else "it has one student; leave --variant out"
        raise RunError(f"{folder} has no variant {label}; {has}")
    if not 0 <= choice.replicate < config.replicates:
        raise RunError(f"replicate={choice.replicate}: {folder} has {config.replicates}, counted from 0")
    (student,) = [one for one in found if (one.label, one.replicate) == (label, choice.replicate)]
    done = _done(folder)
    finished = [node for node in student.path if node.key in done]
    if choice.stage is not None:
        chosen = [node for node in finished if node.stage == choice.stage]
    else:
        # a seed counts if it is all that the run was to make
        chosen = [node for node in finished if node.stage or node is student.path[-1]][-1:]
    if not chosen:
        asked = "" if choice.stage is None else f" of stage {choice.stage}"
        has = ", ".join(str(node.stage) for node in finished)
        cure = f"it has finished stage {has}" if has else f"`lab distill resume={folder.name}` goes on with it"
        raise RunError(f"{folder} has no finished student{asked}; {cure}")
    return chosen[0]


def load_finished(run: RecordedRun, node: Node, *, device: torch.device) -> LanguageModel:
    """The student as the end of a stage left it, frozen and in evaluation mode; trained tensors in their own dtype.

    Raises:
        CheckpointError: if its checkpoint, or the teacher, is missing, damaged or another one.
    """
    config = run.config
    teacher = load_teacher(config.teacher, device=device, seed=config.seed)
    student = seeded_student(teacher, node, seed=config.seed)
    if node.is_hybrid:
        keep_softmax(student, teacher, softmax_layers(node.student.hybrid, len(student.mixer_layers())))
    tensors = own_tensors(student)
    # nothing was trained of a seed, nor of a student whose layers all stayed softmax
    if node.recipe is not None and tensors:
        path = run.folder / "checkpoints" / node.name
        found = checkpoints(path)
        if not found:
            raise CheckpointError(f"{path} holds no checkpoint any more; run the stage again")
        if read_meta(found[-1]).get("teacher") != digest(teacher):
            raise CheckpointError(
                f"{found[-1]} was trained on a teacher with other weights than teacher.path={config.teacher.path} has "
                "now; put the teacher's own back"
            )
        load_tensors(found[-1], into=tensors)
    return student.requires_grad_(False).eval()


def _typed(recorded: dict[str, object], folder: Path) -> DistillConfig:
    from omegaconf import DictConfig, OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        merged = OmegaConf.merge(OmegaConf.structured(DistillConfig), recorded)
        assert isinstance(merged, DictConfig), "the schema is a mapping"
        return to_typed(merged, DistillConfig)
    except (OmegaConfBaseException, ConfigError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder}/config.json is of another version of lab, or damaged: {reason}") from error


def _done(folder: Path) -> set[str]:
    """Units of work that a run has recorded as done; a last line that a kill tore says nothing."""
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    done = set()
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("kind") == "done":
            done.add(str(row.get("unit")))
    return done
