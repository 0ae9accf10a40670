"""Load models: the student of a stage, and whatever a name means: a run, a folder, a GGUF file or `shipped`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.data.chat_template import encode_conversation
from lab.core.data.prompt_format import TURN_END
from lab.core.data.tiling import cut_tiles, load_image, normalize
from lab.core.errors import CheckpointError, ConfigError, InputError, RunError
from lab.core.models.checkpoint import CONFIG
from lab.core.models.config import PixelShuffle
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import PROMPT, ModelFolder, Precision
from lab.core.runs.random_streams import Seeds
from lab.core.tokenizer import Tokenizer
from lab.core.train.state import load_tensors, read_meta
from lab.experiments.distill.data import PromptConfig, prompt_format, tokenizer_of
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.sources import RecordedRun, StudentSelector, choose_node, find_recorded
from lab.experiments.distill.stage_graph import HYBRID_FROM, StageNode
from lab.experiments.distill.student import build_student, keep_softmax, own_tensors
from lab.experiments.distill.teacher import SHIPPED, SHIPPED_FOLDER, digest, load_teacher, open_teacher

# keys of an exported config.json that say how prompts were written in training
_KEPT = ("system", "max_tiles")


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model and what it takes to talk to it.

    Attributes:
        model: frozen, in evaluation mode.
        tokenizer: of the model.
        prompt: how prompts were written in training, as far as it is known.
        stop_ids: tokens that end an answer.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    prompt: PromptConfig
    stop_ids: frozenset[int]

    def read(self, text: str, images: Sequence[Path], *, is_raw: bool) -> Inputs:
        """A prompt as the model reads it.

        Args:
            text: a question, with a mark where each image belongs; one image needs none.
            images: in the order of the marks.
            is_raw: whether the text is taken as it is, without the chat format.

        Raises:
            InputError: if an image cannot be read, marks and images do not match, or the model cannot read them.
        """
        architecture = self.model.config
        if images and (is_raw or architecture.vision is None):
            why = "a raw prompt is text only" if is_raw else "this model reads text only"
            raise InputError(f"image={images[0]}: {why}; leave the images out")
        device = next(self.model.parameters()).device

        def row(ids: Any) -> Tensor:
            return torch.tensor([list(ids)], dtype=torch.int64, device=device)

        if is_raw:
            ids = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            ids += self.tokenizer.encode(text)
            if not ids:
                raise InputError("the prompt is empty; give some text")
            return Inputs(tokens=row(ids))
        written = prompt_format(self.prompt, architecture)
        tiles = [normalize(cut_tiles(load_image(path), written)) for path in images]
        conversation = encode_conversation(
            [text], [len(cut) for cut in tiles], tokenizer=self.tokenizer, prompt_format=written
        )
        reads_every_patch = bool(tiles) and written.pixel_shuffle is PixelShuffle.post
        return Inputs(
            tokens=row(conversation.llm_ids),
            pixel_values=torch.cat(tiles).to(device) if tiles else None,
            hd_tokens=row(conversation.embedding_ids) if reads_every_patch else None,
        )


def open_model(
    name: str, selector: StudentSelector, *, device: torch.device, precision: Precision | None
) -> OpenedModel:
    """The model that a name means.

    Args:
        name: a folder with config.json and safetensors, a GGUF file, `shipped`, or a run: its directory, or the end of
            its name.
        selector: which student of a run.
        device: of the weights.
        precision: of the weights; None for that of the run or of config.json.

    Raises:
        CheckpointError: for files that are missing, damaged or do not fit together.
        ConfigError: for an architecture that is not implemented, or a selector where there is none.
        RunError: if there is no such run, or nothing in it is finished.
    """
    path = Path(name)
    folder = ModelFolder(SHIPPED_FOLDER) if name == SHIPPED else ModelFolder.find(path)
    if folder is not None:
        if not selector.is_any:
            raise ConfigError(
                f"{name} is no run: stage, variant and replicate choose among a run's students; drop them"
            )
        return _open_folder(folder, device=device, precision=precision, prompt=None)
    if os.sep in name and not path.is_dir():
        raise CheckpointError(
            f"{name} does not exist; give the folder of a checkpoint or a run, or the end of its name"
        )
    run = find_recorded(name)
    prompt = run.config.prompt
    if run.teacher_folder is not None:
        if not run.teacher_folder.exists():
            raise RunError(f"{run.folder} has no finished teacher; `lab distill resume={run.folder.name}` goes on")
        folder = ModelFolder(run.teacher_folder)
        return _open_folder(folder, device=device, precision=precision, prompt=prompt)
    model = load_finished(run, choose_node(run, selector), device=device)
    # the one that the student was loaded with
    folder = open_teacher(run.config.teacher, device=device, seed=run.config.seed).folder
    tokenizer = tokenizer_of(folder, prompt, run.config.data)
    stop_ids = frozenset({tokenizer.id_of(TURN_END)}) if folder is None else folder.stop_ids(tokenizer)
    return OpenedModel(model.to((precision or run.config.teacher.precision).dtype), tokenizer, prompt, stop_ids)


def kept_of(prompt: PromptConfig) -> dict[str, Any]:
    """What an exported config.json says of how prompts were written."""
    return {name: getattr(prompt, name) for name in _KEPT}


def _open_folder(
    folder: ModelFolder, *, device: torch.device, precision: Precision | None, prompt: PromptConfig | None
) -> OpenedModel:
    prompt = _kept_prompt(folder) if prompt is None else prompt
    # the small file first: without it the large ones are of no use
    tokenizer = tokenizer_of(folder, prompt, None)
    model = folder.load(device=device, dtype=(precision or folder.precision).dtype)
    return OpenedModel(model, tokenizer, prompt, folder.stop_ids(tokenizer))


def _kept_prompt(folder: ModelFolder) -> PromptConfig:
    try:
        return PromptConfig(**{name: folder.prompt[name] for name in _KEPT if name in folder.prompt})
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder.path / CONFIG}: {PROMPT}={folder.prompt} does not say how prompts are written; {error}"
        ) from None


def student_of(
    node: StageNode, source: Path | None, *, teacher: LanguageModel, teacher_digest: str, seed: int
) -> LanguageModel:
    """The student that a stage trains or has trained, with the layers of the stage, frozen.

    Args:
        node: the stage.
        source: where its tensors come from: a checkpoint of this stage or of an earlier one, or the exported folder of
            a student; None for their initial values.
        teacher: of the student.
        teacher_digest: of its weights.
        seed: of the run.

    Raises:
        BackendError: if an implementation that is asked for by name cannot run here.
        CheckpointError: if the source is damaged, of another teacher, or has attention where a mixer is needed.
        ConfigError: if the mixer's options ask for what the teacher's attention does not have.
    """
    # replicates differ in all that is random, layers of one student draw from separate streams
    seeds = Seeds(int(Seeds(seed).numpy("replicate", node.replicate).integers(2**31)))
    student = build_student(teacher, node.student, seeds=seeds)
    if node.recipe is not None and node.recipe.autocast:
        # small steps vanish in bfloat16: trained tensors are float32, products are not
        for layer in student.converted_layers():
            layer.layer.mixer.float()
    kept = _kept(node, len(student.mixer_layers()))
    exported = None if source is None else ModelFolder.find(source)
    if exported is not None:
        _copy_exported(exported, student, teacher, node, kept)
        source = None
    # checkpoints before the first hybrid stage hold every layer, later ones those that were trained
    if source is not None and int(read_meta(source).get("stage", 0)) < HYBRID_FROM:
        _load(source, student, teacher_digest)
        source = None
    keep_softmax(student, teacher, kept)
    if source is not None:
        _load(source, student, teacher_digest)
    return student.requires_grad_(False)


def load_finished(run: RecordedRun, node: StageNode, *, device: torch.device) -> LanguageModel:
    """The student as the end of a stage left it, in evaluation mode; trained tensors in their own dtype.

    Raises:
        CheckpointError: if its checkpoint, or the teacher, is missing, damaged or another one.
    """
    config = run.config
    teacher = load_teacher(config.teacher, device=device, seed=config.seed)
    num_layers = len(teacher.mixer_layers())
    # where every layer stayed softmax, nothing was trained
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
    """Give a student, linear in every layer, the tensors of an exported folder; layers that stay softmax need none."""
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
