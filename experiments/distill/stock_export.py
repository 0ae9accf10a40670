"""A student of a run as a stock model of transformers: chosen, written, run by transformers and compared."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lab.core.data.chat_template_jinja import chat_template
from lab.core.data.image_processor_json import image_processor_json
from lab.core.data.jinja_chat import chat_of_folder
from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START
from lab.core.errors import ConfigError, InputError
from lab.core.mixers.rotary import RotaryKind
from lab.core.mixers.spec import mixer_like
from lab.core.models.checkpoint import write_checkpoint
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import GENERATION_CONFIG, PROMPT, ModelFolder, Precision
from lab.core.models.hf_config import load_json
from lab.core.models.image_processor import PROCESSOR
from lab.core.models.spec import build
from lab.core.optional_packages import load_package
from lab.core.runs.json_files import write_json
from lab.core.runs.random_streams import Seeds
from lab.core.runs.tensor_files import write_tensors
from lab.core.stock.layout import EXACT, STUDENT, StockLayout, choose
from lab.core.stock.tokenizer_files import missing_for_processor, settled_difference, write_tokenizer
from lab.core.stock.verify import FORMAT, Agreement, probe, verify
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.data import PromptConfig, prompt_format
from lab.experiments.distill.load import find_model, kept_of, load_finished
from lab.experiments.distill.model_card import model_card
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.sources import RecordedRun
from lab.experiments.distill.stage_graph import StageNode
from lab.experiments.distill.teacher import open_teacher

_CPU = torch.device("cpu")
_CHECKED_IDS = 200


def write_stock(
    folder: Path, run: RecordedRun, node: StageNode, selector: StudentSelector, precision: Precision | None
) -> str:
    """Write a student of a run; what was written, in one line.

    Args:
        folder: must not exist.
        run: of the student.
        node: after which stage.
        selector: that chose it.
        precision: of all weights; None for the teacher's.

    Raises:
        LabError: as `lab.experiments.distill.export.main`.
    """
    load_package("transformers", needed_by=FORMAT)
    teacher = open_teacher(run.config.teacher, device=_CPU, seed=run.config.seed)
    # before weights are read
    choose(outline(teacher.architecture, node))
    found = find_model(str(run.folder), selector)
    dtype = (precision or run.config.teacher.precision).dtype
    student = load_finished(run, node, device=_CPU).to(dtype)
    layout = choose(student)
    state = student.state_dict()
    rounded = layout.rounded(state)
    if rounded and dtype is torch.bfloat16:
        raise ConfigError(
            f"precision=bfloat16: {layout.architecture.model_type} stores norms as their difference from one, which "
            f"bfloat16 rounds ({next(iter(rounded))}); --precision float32 would do"
        )
    ids = _special_ids(found.tokenizer, found.stop_ids, teacher.folder)
    content = layout.config(dtype, ids)
    content[STUDENT][PROMPT] = kept_of(run.config.prompt)
    notes: list[str] = []
    agreements: list[Agreement] = []

    def write_more(partial: Path) -> None:
        if rounded:
            write_tensors(partial / EXACT, rounded)
        notes.extend(_write_tokenizer(partial, found.tokenizer, teacher.folder, layout, run.config.prompt))
        write_json(partial / GENERATION_CONFIG, {**_generation(teacher.folder), **ids})
        notes.extend(_of_long_texts(layout))
        agreements.append(_verified(partial, student))
        card = model_card(folder.name, layout, run, node, selector, agreements[0])
        (partial / "README.md").write_text(card, encoding="utf-8")

    write_checkpoint(folder, layout.keys().to_public(state), content, write_more=write_more)
    return _line(folder, layout, run, node, agreements[0], notes)


def outline(architecture: ModelConfig, node: StageNode) -> LanguageModel:
    """The student of a stage on the meta device: its layers without numbers.

    Args:
        architecture: of its teacher.
        node: the stage.
    """
    student = build(architecture)
    layers = student.mixer_layers()
    kept = softmax_layers(node.student.hybrid, len(layers)) if node.is_hybrid else ()
    for layer in layers:
        if layer.index not in kept:
            layer.layer.mixer = mixer_like(layer.layer.mixer, node.student.mixer, where=f"the teacher's {layer.name}")
    return student


def _verified(partial: Path, student: LanguageModel) -> Agreement:
    """Compare the folder with the student in float32, whatever the precision of its weights is."""
    student.float().choose_backends()
    return verify(partial, student, probe(student, Seeds(0).torch("export")))


def _special_ids(tokenizer: Tokenizer, stop_ids: frozenset[int], teacher: ModelFolder | None) -> dict[str, Any]:
    """Special tokens by the key that config.json and generation_config.json have for them."""
    ends = sorted(stop_ids)
    padding = None
    if teacher is None:
        padding = tokenizer.id_of("<pad>")
    elif isinstance(teacher.content.get("pad_token_id"), int):
        padding = teacher.content["pad_token_id"]
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": padding,
    }


def _generation(teacher: ModelFolder | None) -> Mapping[str, Any]:
    """The teacher's generation_config.json, if it has one."""
    path = None if teacher is None else teacher.path / GENERATION_CONFIG
    return load_json(path) if path is not None and path.is_file() else {}


def _write_tokenizer(
    partial: Path, tokenizer: Tokenizer, teacher: ModelFolder | None, layout: StockLayout, prompt: PromptConfig
) -> list[str]:
    """Write tokenizer, chat template and processor; what a user must know of them, in words."""
    architecture = layout.stack.model.config
    template = None
    if architecture.vision is not None:
        written = prompt_format(prompt, architecture)
        if written.tower is None:
            template = chat_template(prompt.system, has_bos=tokenizer.bos_id is not None)
        processors = image_processor_json(written)
        if layout.vision is not None and layout.vision.processor is not None:
            processors[PROCESSOR] = dict(layout.vision.processor)
        for name, content in processors.items():
            write_json(partial / name, content)
    write_tokenizer(partial, tokenizer, teacher, template)
    notes = []
    if chat_of_folder(partial) is None:
        notes.append("no chat template: the teacher has none")
    try:
        difference = settled_difference(partial, tokenizer, _checked_ids(tokenizer))
    except InputError as error:
        difference = str(error)
    if difference is not None:
        notes.append(f"transformers does not read its tokenizer ({difference}): give ids, or use lab generate")
    elif (partial / PROCESSOR).is_file():
        missing = missing_for_processor(partial)
        if missing is not None:
            notes.append(
                f"AutoProcessor cannot be used here ({missing}); AutoImageProcessor and AutoTokenizer can, or install "
                "what it asks for"
            )
    return notes


def _checked_ids(tokenizer: Tokenizer) -> list[int]:
    """The first ids, and those of tokens that chats and pictures are written with."""
    ids = list(range(min(_CHECKED_IDS, len(tokenizer))))
    for token in (TURN_START, TURN_END, IMAGE_START, IMAGE_CONTEXT, IMAGE_END):
        with suppress(InputError):
            ids.append(tokenizer.id_of(token))
    return ids


def _of_long_texts(layout: StockLayout) -> list[str]:
    """What differs beyond the length of the teacher's training, which the comparison does not reach."""
    rotary = layout.stack.rotary
    if not layout.stack.softmax or rotary.kind not in (RotaryKind.dynamic, RotaryKind.longrope):
        return []
    longest = rotary.original_length or rotary.max_length
    return [
        f"rotary.kind={rotary.kind.value}: beyond {longest} tokens the angles of transformers follow the text so far, "
        "those of lab the length that was asked for"
    ]


def _line(
    folder: Path, layout: StockLayout, run: RecordedRun, node: StageNode, agreement: Agreement, notes: list[str]
) -> str:
    stage = f"stage {node.stage}" if node.stage else "the untrained student"
    return "; ".join(
        (
            f"{folder}: the student of {run.folder.name} after {stage} as {layout.name}, because "
            f"{layout.architecture.why}",
            f"transformers agrees: {agreement.in_words}, {agreement.num_tokens} greedy tokens equal",
            *notes,
        )
    )
