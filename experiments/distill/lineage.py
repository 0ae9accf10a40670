"""Where a stage starts from: the seed, the run that trained the stage before, or a student's checkpoint folder."""

import json
from pathlib import Path
from typing import Any

import torch

from lab.core.errors import CheckpointError, RunError
from lab.core.models.decoder import LanguageModel
from lab.core.models.student_format import is_checkpoint, is_student, load_student
from lab.core.runs.find import find_run, outputs_root, run_directories
from lab.core.runs.random_streams import Seeds
from lab.core.train.state import checkpoints, load_tensors, read_meta
from lab.experiments.distill.config import ALL, DistillConfig
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.stage_graph import Node
from lab.experiments.distill.student import build_student, own_tensors

# of the recorded configuration: what a student that goes on must have in common with what it goes on from
_COMMON = ("teacher", "student.initialisation", "student.mixer")


def find_source(config: DistillConfig, recorded: dict[str, Any]) -> Path:
    """The run that `stage=2` or `stage=3` goes on from: `from_run`, or the newest finished one of the stage before.

    `from_run` may also be the checkpoint folder of a student: whatever trained it, it is taken as it is.

    Args:
        config: of this run.
        recorded: the same as plain values, as a run records it.

    Raises:
        RunError: if there is none, or it is of another teacher or student, or is not finished.
    """
    stage = int(config.stage)
    if config.from_run is not None:
        folder = find_run(config.from_run)
        if is_checkpoint(folder):
            if not is_student(folder):
                raise RunError(f"from_run={config.from_run} is a teacher; stage={stage} goes on from a student")
            return folder
        reason = _why_not(folder, recorded)
        if reason is not None:
            raise RunError(f"from_run={config.from_run}: {reason}")
        if not _stages(folder) & set(range(1, stage)):
            raise RunError(f"from_run={config.from_run} trained no stage before stage={stage}; choose a run that did")
        return folder
    for folder in run_directories(outputs_root() / "distill"):
        if _why_not(folder, recorded) is None and stage - 1 in _stages(folder):
            return folder
    raise RunError(
        f"stage={stage} goes on from stage {stage - 1}, and no finished run of it with this teacher and student is "
        f"under {outputs_root() / 'distill'}; run `lab distill stage={stage - 1}` first, or give from_run=RUN"
    )


def seeded_student(teacher: LanguageModel, node: Node, *, seed: int) -> LanguageModel:
    """The student of a node before anything is trained or read, linear in every layer.

    Raises:
        BackendError: if an implementation that is asked for by name cannot run here.
        ConfigError: if the options ask for what the teacher's attention does not have.
    """
    # replicates differ in all that is random, layers of one student in their own streams
    seeds = Seeds(int(Seeds(seed).numpy("replicate", node.replicate).integers(2**31)))
    student = build_student(teacher, node.student, seeds=seeds)
    if node.recipe is not None and node.recipe.autocast:
        # small steps vanish in bfloat16: trained tensors are float32, products are not
        for layer in student.converted_layers():
            layer.layer.mixer.float()
    return student


def read_source(
    source: Path, student: LanguageModel, node: Node, *, teacher: LanguageModel, teacher_digest: str
) -> None:
    """Give a seeded student, linear in every layer, the tensors of what it goes on from.

    Args:
        source: as `find_source` gives it.
        student: of `node`, as `seeded_student` makes it.
        node: the stage that goes on.
        teacher: of both.
        teacher_digest: of its weights.

    Raises:
        RunError: if a run holds no such student or several.
        CheckpointError: if the source is damaged, of another teacher, or has attention where Mamba-2 is needed.
    """
    own = own_tensors(student)
    if not is_checkpoint(source):
        load_tensors(source_checkpoint(source, node.stage, node.replicate, teacher_digest), into=own)
        return
    weight = next(teacher.parameters())
    theirs = load_student(source, device=weight.device, dtype=weight.dtype).state_dict()
    kept = softmax_layers(node.student.hybrid, len(student.mixer_layers())) if node.is_hybrid else ()
    skipped = tuple(f"{layer.name}.mixer." for layer in student.mixer_layers() if layer.index in kept)
    for name, tensor in student.state_dict().items():
        if name.startswith(skipped):
            continue
        if name not in theirs or theirs[name].shape != tensor.shape:
            raise CheckpointError(
                f"from_run={source} has no {name} of shape {tuple(tensor.shape)}: it is another model, or has "
                f"attention in a layer that stage={node.stage} needs as Mamba-2; choose another student"
            )
        if name not in own and not theirs[name].equal(tensor):
            raise CheckpointError(f"from_run={source}: {name} is not the teacher's; choose a student of this teacher")
    with torch.no_grad():
        for name, tensor in own.items():
            if not name.startswith(skipped):
                tensor.copy_(theirs[name])


def source_checkpoint(folder: Path, stage: int, replicate: int, teacher: str) -> Path:
    """The last checkpoint of the latest stage before `stage` in a run.

    Args:
        folder: of the run.
        stage: that goes on from it.
        replicate: of the student.
        teacher: digest of its weights.

    Raises:
        RunError: if the run holds none or several.
        CheckpointError: if it was trained on another teacher.
    """
    for earlier in range(stage - 1, 0, -1):
        ends = [found[-1] for node in folder.glob(f"checkpoints/stage_{earlier}-*") if (found := checkpoints(node))]
        ends = [path for path in ends if read_meta(path).get("replicate") == replicate]
        if len(ends) > 1:
            raise RunError(f"{folder} holds {len(ends)} students of stage {earlier}; give from_run of a run with one")
        if ends:
            if read_meta(ends[0]).get("teacher") != teacher:
                raise CheckpointError(
                    f"{ends[0]} was trained on a teacher with other weights; choose the teacher's own"
                )
            return ends[0]
    raise RunError(f"{folder} has no checkpoint of replicate {replicate} before stage {stage}; lower replicates")


def _why_not(folder: Path, recorded: dict[str, Any]) -> str | None:
    """Why a run cannot be gone on from; None if it can."""
    theirs, status = _read(folder / "config.json"), _read(folder / "status.json")
    if "teacher" not in theirs or theirs.get("variants"):
        return "it is no run of one student; choose another"
    if status.get("status") != "finished":
        return f"it is {status.get('status', 'unreadable')}; finish it with resume={folder.name}"
    for key in _COMMON:
        if _at(theirs, key) != _at(recorded, key):
            return f"its {key} differs; choose a run of the same teacher and student"
    return None


def _stages(folder: Path) -> set[int]:
    """The stages that a run trained."""
    config = _read(folder / "config.json")
    stage = str(config.get("stage"))
    if stage == ALL:
        return set(config.get("stages", []))
    return {int(stage)} if stage.isdigit() else set()


def _at(tree: dict[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
