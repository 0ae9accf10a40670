"""Build the student of a stage and load tensors from an earlier stage, a finished run, or an exported folder."""

from pathlib import Path

import torch

from lab.core.errors import CheckpointError
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import ModelFolder
from lab.core.runs.random_streams import Seeds
from lab.core.train.state import load_tensors, read_meta
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.sources import RecordedRun
from lab.experiments.distill.stage_graph import HYBRID_FROM, StageNode
from lab.experiments.distill.student import build_student, keep_softmax, own_tensors
from lab.experiments.distill.teacher import digest, load_teacher


def student_of(
    node: StageNode, source: Path | None, *, teacher: LanguageModel, teacher_digest: str, seed: int
) -> LanguageModel:
    """The student of a stage, before or after training, with the stage's layers, frozen.

    Args:
        node: the stage.
        source: of its tensors: a checkpoint of this or an earlier stage, or an exported student folder; None for the
            initial values.
        teacher: of the student.
        teacher_digest: of its weights.
        seed: of the run.

    Raises:
        BackendError: if a backend requested by name cannot run here.
        CheckpointError: if the source is damaged, has another teacher, or has attention where a mixer is needed.
        ConfigError: if the mixer's options need a feature that the teacher's attention lacks.
    """
    # replicates use different random numbers; the layers of a student draw from separate streams
    seeds = Seeds(int(Seeds(seed).numpy("replicate", node.replicate).integers(2**31)))
    student = build_student(teacher, node.student, seeds=seeds)
    if node.recipe is not None and node.recipe.autocast:
        # small updates vanish in bfloat16: keep trained tensors in float32, even if products are not
        for layer in student.converted_layers():
            layer.layer.mixer.float()
    kept = _kept(node, len(student.mixer_layers()))
    exported = None if source is None else ModelFolder.find(source)
    if exported is not None:
        _copy_exported(exported, student, teacher, node, kept)
        source = None
    # checkpoints before the first hybrid stage hold every layer, later ones only the trained layers
    if source is not None and int(read_meta(source).get("stage", 0)) < HYBRID_FROM:
        _load(source, student, teacher_digest)
        source = None
    keep_softmax(student, teacher, kept)
    if source is not None:
        _load(source, student, teacher_digest)
    return student.requires_grad_(False)


def load_finished(run: RecordedRun, node: StageNode, *, device: torch.device) -> LanguageModel:
    """The student at the end of a stage, in evaluation mode; trained tensors keep their dtype.

    Raises:
        CheckpointError: if its checkpoint or teacher is missing, damaged or has changed.
    """
    config = run.config
    teacher = load_teacher(config.teacher, device=device, seed=config.seed)
    num_layers = len(teacher.mixer_layers())
    # if every layer stayed softmax, nothing was trained
    is_trained = node.recipe is not None and len(_kept(node, num_layers)) < num_layers
    source = run.checkpoint_of(node) if is_trained else None
    student = student_of(node, source, teacher=teacher, teacher_digest=digest(teacher), seed=config.seed)
    return student.eval()


def _kept(node: StageNode, num_layers: int) -> tuple[int, ...]:
    """The layers that are softmax attention in this stage."""
    return softmax_layers(node.student.hybrid, num_layers) if node.is_hybrid else ()


def _load(path: Path, student: LanguageModel, teacher_digest: str) -> None:
    if read_meta(path).get("teacher") != teacher_digest:
        raise CheckpointError(
            f"{path} was trained on a teacher with other weights than teacher.path has now; choose the teacher's own "
            "run, or put its teacher back"
        )
    load_tensors(path, into=own_tensors(student))


def _copy_exported(
    folder: ModelFolder, student: LanguageModel, teacher: LanguageModel, node: StageNode, kept: tuple[int, ...]
) -> None:
    """Load an exported folder into a student that is linear in every layer; softmax layers need no tensors."""
    weight = next(teacher.parameters())
    theirs = folder.load(device=weight.device, dtype=weight.dtype).state_dict()
    own = own_tensors(student)
    skipped = tuple(f"{layer.name}.mixer." for layer in student.mixer_layers() if layer.index in kept)
    for name, tensor in student.state_dict().items():
        if name.startswith(skipped):
            continue
        if name not in theirs or theirs[name].shape != tensor.shape:
            raise CheckpointError(
                f"from_run={folder.path} has no {name} of shape {tuple(tensor.shape)}: it is another model, or has "
                f"attention or another mixer in a layer that stage={node.stage} needs as {node.student.mixer.kind}; "
                "choose another student"
            )
        if name not in own and not theirs[name].equal(tensor):
            raise CheckpointError(
                f"from_run={folder.path}: {name} is not the teacher's; choose a student of this teacher"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            if not name.startswith(skipped):
                tensor.copy_(theirs[name])
