"""A student of a run as a GGUF file for llama.cpp: chosen, written, read back and compared."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.folder import ModelFolder
from lab.core.optional_packages import load_package
from lab.core.runs.atomic_files import as_run_error
from lab.core.stock.gguf_file import FORMAT, GgufPrecision, write_gguf
from lab.core.stock.gguf_granitehybrid import ARCHITECTURE, Value, keys_of, stack_for_llama, tensors_of
from lab.core.stock.gguf_vocabulary import has_chat_template, vocabulary
from lab.experiments.distill.load import find_model, load_finished
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.sources import RecordedRun
from lab.experiments.distill.stage_graph import StageNode
from lab.experiments.distill.stock_export import outline
from lab.experiments.distill.teacher import open_teacher

SUFFIX = ".gguf"
_CPU = torch.device("cpu")
# what llama.cpp calls a file whose matrices are mostly stored so
_FILE_TYPES = {GgufPrecision.F32: 0, GgufPrecision.F16: 1, GgufPrecision.Q8_0: 7}
_QUANTIZATION_VERSION = 2


def gguf_precision_of(name: str | None) -> GgufPrecision:
    """The precision of a name; F16 without one.

    Raises:
        ConfigError: for another name.
    """
    if name is None:
        return GgufPrecision.F16
    if name not in GgufPrecision.__members__:
        raise ConfigError(f"precision={name}: choose from {', '.join(GgufPrecision.__members__)} with --format gguf")
    return GgufPrecision(name)


def write_gguf_student(
    path: Path, run: RecordedRun, node: StageNode, selector: StudentSelector, precision: GgufPrecision
) -> str:
    """Write a student of a run; what was written, in one line.

    Args:
        path: of the file, which must not exist.
        run: of the student.
        node: after which stage.
        selector: that chose it.
        precision: of the matrices.

    Raises:
        LabError: as `lab.experiments.distill.export.main`.
    """
    load_package("gguf", needed_by=FORMAT)
    teacher = open_teacher(run.config.teacher, device=_CPU, seed=run.config.seed)
    # before the student's weights are read
    stack_for_llama(outline(teacher.architecture, node))
    found = find_model(str(run.folder), selector)
    tokens = vocabulary(
        found.tokenizer,
        teacher.folder,
        vocab_size=teacher.architecture.decoders[-1].vocab_size,
        stop_ids=found.stop_ids,
    )
    student = load_finished(run, node, device=_CPU).float()
    stack, state = stack_for_llama(student), student.state_dict()

    def tensors() -> Iterator[tuple[str, Tensor]]:
        return tensors_of(stack, state)

    keys: dict[str, Value] = {
        "general.type": "model",
        "general.name": path.stem,
        "general.description": _description(run, node, teacher.folder),
        "general.file_type": _FILE_TYPES[precision],
        "general.quantization_version": _QUANTIZATION_VERSION,
        **keys_of(stack),
        **tokens,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_run_error(error, path) from error
    stored = write_gguf(path, ARCHITECTURE, keys, tensors, precision)
    notes = [] if has_chat_template(tokens) else ["no chat template: the teacher has none"]
    rest = [name for name, kept in stored.items() if kept is GgufPrecision.F16]
    if rest and precision is GgufPrecision.Q8_0:
        notes.append(f"{len(rest)} matrices stay F16, since their row length is not a multiple of 32 ({rest[0]})")
    stage = f"stage {node.stage}" if node.stage else "the untrained student"
    return "; ".join(
        (
            f"{path}: the student of {run.folder.name} after {stage} as {ARCHITECTURE} for llama.cpp, "
            f"{precision.value}, {path.stat().st_size:,} bytes",
            f"read back: {len(stored)} tensors and {len(keys)} keys are the student's",
            *notes,
        )
    )


def refuse_other_names(path: Path) -> None:
    """Refuse a file that neither llama.cpp nor lab would know by its name.

    Raises:
        CheckpointError: saying how it must end.
    """
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path} does not end in {SUFFIX}, as the name of a GGUF file does; add it")


def _description(run: RecordedRun, node: StageNode, teacher: ModelFolder | None) -> str:
    source = "random weights" if teacher is None else teacher.path.name
    options = node.student.mixer
    return f"{source}, attention distilled into {options.kind}, run {run.folder.name}, after stage {node.stage}"
