"""Load models: the student of a stage, and whatever a name means: a run, a folder, a GGUF file or `shipped`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypedDict

import torch
from torch import Tensor

from lab.core.data.conversation import template_of
from lab.core.data.prompt_format import TURN_END
from lab.core.errors import CheckpointError, ConfigError, RunError
from lab.core.mixers.base import Mixer
from lab.core.models.checkpoint import CONFIG
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import PROMPT, Kind, ModelFolder, Precision
from lab.core.models.vision_language_config import VisionEncoderConfig
from lab.core.parallel.layout import Layout, assign, cut_modules, whole
from lab.core.runs.find import is_listed, run_name
from lab.core.runs.random_streams import Seeds
from lab.core.streams import say
from lab.core.tokenizer import Tokenizer
from lab.core.train.digests import check_whole, read_meta
from lab.core.train.state import load_tensors
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.data import PromptConfig, prompt_format, tokenizer_of
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.sources import RecordedRun, choose_node, find_recorded
from lab.experiments.distill.stage_graph import HYBRID_FROM, StageNode
from lab.experiments.distill.student import build_student, keep_softmax, own_tensors
from lab.experiments.distill.teacher import SHIPPED, SHIPPED_FOLDER, digest, load_teacher, open_teacher


class KeptPrompt(TypedDict):
    """The prompt format of training, as an exported config.json records it; see `PromptConfig`."""

    system: str
    max_tiles: int


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that a name refers to: everything but its weights.

    Attributes:
        architecture: of the model; a student's is its teacher's.
        tokenizer: of the model.
        prompt: the prompt format of training, as far as known.
        stop_ids: tokens that end an answer.
        trained_tiles: tiles that an image had at most in training; None if that is not recorded.
        is_student: whether it may have layers other than softmax attention.
        load: the model on a device, in a precision or, with None, in the run's or config.json's.
    """

    architecture: ModelConfig
    tokenizer: Tokenizer
    prompt: PromptConfig
    stop_ids: frozenset[int]
    trained_tiles: int | None
    is_student: bool
    load: Callable[[torch.device, Precision | None], LanguageModel]

    @property
    def template(self) -> str | None:
        """As `OpenedModel.template`."""
        return template_of(self.tokenizer, prompt_format(self.prompt, self.architecture))


def open_model(
    name: str, selector: StudentSelector, *, device: torch.device, precision: Precision | None
) -> OpenedModel:
    """Load the model that a name refers to; see `find_model`.

    Args:
        name: of the model.
        selector: which student of a run.
        device: of the weights.
        precision: of the weights; None for the run's or config.json's.

    Raises:
        CheckpointError: as `find_model`, and for weights that are missing, damaged or inconsistent.
        ConfigError: as `find_model`.
        RunError: as `find_model`.
    """
    # the small files first: without them the large ones are useless
    found = find_model(name, selector)
    return OpenedModel(found.load(device, precision), found.tokenizer, found.prompt, found.stop_ids)


def find_model(name: str, selector: StudentSelector) -> FoundModel:
    """The model that a name refers to, without its weights.

    Args:
        name: a folder with config.json and safetensors, a GGUF file, `shipped`, or a run: its directory, or the end of
            its name.
        selector: which student of a run.

    Raises:
        CheckpointError: for files that are missing or damaged.
        ConfigError: for an unknown architecture, or a selector for a model that is not a run.
        RunError: if there is no such run, or nothing in it is finished.
    """
    run = _place_of(name, selector)
    if isinstance(run, ModelFolder):
        return _in_folder(run, prompt=None)
    return find_in_run(run, selector)


def find_in_run(run: RecordedRun, selector: StudentSelector) -> FoundModel:
    """The selected student of a run, or the teacher that it trained, without its weights.

    Raises:
        CheckpointError: as `find_model`.
        ConfigError: as `find_model`.
        RunError: if nothing in it is finished.
    """
    prompt = run.config.prompt
    if run.teacher_folder is not None:
        return _in_folder(ModelFolder(run.teacher_folder), prompt=prompt)
    node = choose_node(run, selector)
    # on any device: its weights are loaded with the student's
    teacher = open_teacher(run.config.teacher, device=torch.device("cpu"), seed=run.config.seed)
    tokenizer = tokenizer_of(teacher.folder, prompt, run.config.data)
    stop_ids = {tokenizer.id_of(TURN_END)} if teacher.folder is None else teacher.folder.stop_ids(tokenizer)

    def load(device: torch.device, precision: Precision | None) -> LanguageModel:
        model = load_finished(run, node, device=device)
        return model.to((precision or run.config.teacher.precision).dtype)

    return FoundModel(teacher.architecture, tokenizer, prompt, frozenset(stop_ids), prompt.max_tiles, True, load)


def refuse_unknown(name: str, selector: StudentSelector) -> None:
    """Refuse a name that means no model, before any tokenizer or weights are read.

    Raises:
        LabError: as `find_model`, for what is seen without reading more than config.json.
    """
    found = _place_of(name, selector)
    if isinstance(found, RecordedRun) and found.teacher_folder is None:
        choose_node(found, selector)


def _place_of(name: str, selector: StudentSelector) -> ModelFolder | RecordedRun:
    """Where the model is that a name refers to; of a run that trained a teacher, the teacher is there."""
    path = Path(name)
    folder = ModelFolder(SHIPPED_FOLDER) if name == SHIPPED else ModelFolder.find(path)
    if folder is not None:
        if not selector.is_any:
            raise ConfigError(
                f"{name} is not a run: stage, variant and replicate choose among a run's students; drop them"
            )
        return folder
    if os.sep in name and path.is_file():
        raise CheckpointError(f"{name} is a file; give the folder that it is in, or a GGUF file")
    if os.sep in name and not path.is_dir() and not is_listed(name):
        raise CheckpointError(
            f"{name} does not exist; give the folder of a checkpoint or a run, or the end of its name"
        )
    run = find_recorded(name)
    if run.teacher_folder is not None and not run.teacher_folder.exists():
        raise RunError(f"{run.folder} has no finished teacher; resume={run_name(run.folder)} continues it")
    return run


def precision_of(name: str | None) -> Precision | None:
    """The precision with a name.

    Raises:
        ConfigError: if there is none.
    """
    if name is not None and name not in Precision.__members__:
        raise ConfigError(f"precision={name}: choose from {', '.join(Precision.__members__)}")
    return None if name is None else Precision(name)


def kept_of(prompt: PromptConfig) -> KeptPrompt:
    """The prompt format recorded in an exported config.json."""
    return {"system": prompt.system, "max_tiles": prompt.max_tiles}


def _in_folder(folder: ModelFolder, *, prompt: PromptConfig | None) -> FoundModel:
    tokenizer = tokenizer_of(folder, PromptConfig() if prompt is None else prompt, None)

    def load(device: torch.device, precision: Precision | None) -> LanguageModel:
        return folder.load(device=device, dtype=(precision or folder.precision).dtype)

    is_recorded = prompt is not None or "max_tiles" in folder.prompt
    prompt = _kept_prompt(folder) if prompt is None else prompt
    trained_tiles = prompt.max_tiles if is_recorded else None
    is_student = folder.kind is Kind.student
    stop_ids = folder.stop_ids(tokenizer)
    return FoundModel(folder.architecture, tokenizer, prompt, stop_ids, trained_tiles, is_student, load)


def _kept_prompt(folder: ModelFolder) -> PromptConfig:
    vision, kept = folder.architecture.vision, dict(folder.prompt)
    if isinstance(vision, VisionEncoderConfig):
        # what its processor says, where no training has chosen
        kept = {"max_tiles": vision.pictures.max_tiles, **kept}
    try:
        return PromptConfig(**{name: kept[name] for name in KeptPrompt.__annotations__ if name in kept})
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder.path / CONFIG}: {PROMPT}={folder.prompt} is not a valid prompt format; {error}"
        ) from None


def student_of(
    node: StageNode,
    source: Path | None,
    *,
    teacher: LanguageModel,
    teacher_digest: str,
    config: DistillConfig,
    layout: Layout | None = None,
) -> LanguageModel:
    """The student of a stage, before or after training, with the stage's layers, frozen.

    Args:
        node: the stage.
        source: of its tensors: a checkpoint of this or an earlier stage, or an exported student folder; None for the
            initial values.
        teacher: of the student.
        teacher_digest: of its weights.
        config: of the run: its seed, and the teacher's path for errors.
        layout: of the student over the processes of the run; None for one process.

    Raises:
        BackendError: if a backend requested by name cannot run here.
        CheckpointError: if the source is damaged, has another teacher, or has attention where a mixer is needed.
        ConfigError: if the mixer's options need a feature that the teacher's attention lacks.
    """
    # replicates use different random numbers; the layers of a student draw from separate streams
    seeds = Seeds(int(Seeds(config.seed).numpy("replicate", node.replicate).integers(2**31)))
    autocast = node.recipe is not None and node.recipe.autocast
    laid_out = Layout() if layout is None else layout

    def finish(mixer: Mixer) -> None:
        if autocast:
            # small updates vanish in bfloat16: keep trained tensors in float32, even if products are not
            mixer.float()
        laid_out.place(mixer, autocast=autocast)

    student = build_student(teacher, node.student, seeds=seeds, finish=finish)
    kept = _kept(node, len(student.mixer_layers()))
    exported = None if source is None else ModelFolder.find(source)
    if exported is not None:
        _copy_exported(exported, student, teacher, node, kept)
        source = None
    # checkpoints before the first hybrid stage hold every layer, later ones only the trained layers
    if source is not None and int(read_meta(source).get("stage", 0)) < HYBRID_FROM:
        _load(source, student, teacher_digest, config)
        source = None
    keep_softmax(student, teacher, kept)
    if source is not None:
        _load(source, student, teacher_digest, config)
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
    student = student_of(node, source, teacher=teacher, teacher_digest=digest(teacher), config=config)
    return student.eval()


def _kept(node: StageNode, num_layers: int) -> tuple[int, ...]:
    """The layers that are softmax attention in this stage."""
    return softmax_layers(node.student.hybrid, num_layers) if node.is_hybrid else ()


def _load(path: Path, student: LanguageModel, teacher_digest: str, config: DistillConfig) -> None:
    check_whole(path)
    if read_meta(path).get("teacher") != teacher_digest:
        raise CheckpointError(
            f"{path} was trained on a teacher with other weights than teacher.path={config.teacher.path} has now; "
            "choose the teacher's own run, or put its teacher back"
        )
    load_tensors(path, into=own_tensors(student))


def _copy_exported(
    folder: ModelFolder, student: LanguageModel, teacher: LanguageModel, node: StageNode, kept: tuple[int, ...]
) -> None:
    """Load an exported folder into a student that is linear in every layer; softmax layers need no tensors."""
    if cut_modules(teacher):
        say(f"from_run={folder.path}: each process reads an exported student as a whole before it keeps its part")
    weight = next(teacher.parameters())
    # what was trained is in float32 also beside a teacher in bfloat16
    found = folder.load(device=weight.device, dtype=weight.dtype, keeps_wider=True)
    trained, state, own = found.state_dict(), student.state_dict(), own_tensors(student)
    theirs = {name: tensor.to(state[name].dtype) if name in state else tensor for name, tensor in trained.items()}
    skipped = tuple(f"{layer.name}.mixer." for layer in student.mixer_layers() if layer.index in kept)
    different = []
    for name, tensor in state.items():
        if name.startswith(skipped):
            continue
        if name not in theirs or theirs[name].shape != tensor.shape:
            raise CheckpointError(
                f"from_run={folder.path} has no {name} of shape {tuple(tensor.shape)}: it is another model, or has "
                f"attention or another mixer in a layer that stage={node.stage} needs as {node.student.mixer.kind}; "
                "choose another student"
            )
        if name not in own and not theirs[name].equal(whole(tensor)):
            different.append(name)
    # a stock folder has no place for what nothing reads
    expected = {**theirs, **{name: whole(state[name]) for name in different}}
    held = folder.held(found, expected) if different else theirs
    different = [name for name in different if not theirs[name].equal(held[name])]
    if different:
        _refuse_other_teacher(folder, different[0], theirs, folder.held(found, expected, stored_as=folder.precision))
    with torch.no_grad():
        for name, tensor in own.items():
            if not name.startswith(skipped):
                assign(tensor, trained[name])


def _refuse_other_teacher(
    folder: ModelFolder, name: str, theirs: Mapping[str, Tensor], rounded: Mapping[str, Tensor]
) -> NoReturn:
    """Refuse a folder without the teacher's tensor `name`; `rounded` has that one in the folder's precision."""
    if theirs[name].equal(rounded[name]):
        stored, needed = folder.precision.value, str(theirs[name].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"from_run={folder.path} holds weights in {stored}, and the teacher's are in {needed} ({name} is rounded); "
            f"export the student again with --precision {needed}"
        )
    raise CheckpointError(f"from_run={folder.path}: {name} is not the teacher's; choose a student of this teacher")
