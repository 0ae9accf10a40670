"""`lab export`: a distilled student as a checkpoint folder, or a GGUF file, that is complete or absent."""

from collections import Counter
from pathlib import Path

import torch

from lab.core.data.public_tokenizers import GgufTokenizer
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import PROMPT, Kind
from lab.core.models.student_format import block_type, write_student
from lab.core.runs.atomic_files import refuse_unwritable
from lab.experiments.distill.data import tokenizer_of
from lab.experiments.distill.gguf_export import SUFFIX, gguf_precision_of, refuse_other_names, write_gguf_student
from lab.experiments.distill.load import kept_of, load_finished, precision_of
from lab.experiments.distill.selector import StudentSelector, selected_by
from lab.experiments.distill.sources import RecordedRun, choose_node, find_recorded
from lab.experiments.distill.stock_export import write_stock
from lab.experiments.distill.teacher import SHIPPED, open_teacher

MMMAMBA, TRANSFORMERS, GGUF = "mmmamba", "transformers", "gguf"


def main(
    run_name: str, folder: Path, selector: StudentSelector, *, layout: str = MMMAMBA, precision: str | None = None
) -> str:
    """Write a student of a run.

    Args:
        run_name: its directory, or the end of its name, or RUN@STAGE:VARIANT:REPLICATE.
        folder: must not exist; with `gguf` the name of a file.
        selector: which of the run's students, where the name leaves it open.
        layout: `mmmamba`, that of mmMamba's release, `transformers`, a stock architecture, or `gguf`, for llama.cpp.
        precision: of all weights; None for the run's teacher's, in mmMamba's layout for what each tensor has, and for
            F16 in a GGUF file.

    Returns:
        What was written, in one line.

    Raises:
        BackendError: if a stock architecture is asked for without transformers, or a GGUF file without gguf.
        CheckpointError: if the folder exists, files of the run or its teacher are missing or damaged, transformers
            does not compute what the student does, or a GGUF file does not hold it.
        ConfigError: if the layout cannot hold the student, there is no such layout or precision, or the name would be
            that of another model; if both the name and `selector` choose a student.
        RunError: if there is no such run or no finished student in it, or the folder cannot be written.
    """
    # fail before a large teacher is loaded
    _refuse_existing_or_unwritable(folder)
    if layout not in (MMMAMBA, TRANSFORMERS, GGUF):
        raise ConfigError(f"format={layout}: choose from {MMMAMBA}, {TRANSFORMERS}, {GGUF}")
    _refuse_misread(folder, layout)
    run_name, selector = selected_by(run_name, selector)
    if layout == GGUF:
        refuse_other_names(folder)
        in_file = gguf_precision_of(precision)
        run = find_recorded(run_name)
        return write_gguf_student(folder, run, choose_node(run, selector), selector, in_file)
    chosen = precision_of(precision)
    run = find_recorded(run_name)
    node = choose_node(run, selector)
    if layout == TRANSFORMERS:
        return write_stock(folder, run, node, selector, chosen)
    student = load_finished(run, node, device=torch.device("cpu"))
    if chosen is not None:
        student = student.to(chosen.dtype)
    _write(folder, student, run)
    kinds = Counter(block_type(layer.layer.mixer) for layer in student.mixer_layers())
    layers = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), reverse=True))
    stage = f"stage {node.stage}" if node.stage else "the untrained student"
    return f"{folder}: the student of {run.folder.name} after {stage}, {layers} layers"


def _write(folder: Path, student: LanguageModel, run: RecordedRun) -> None:
    # cached: the teacher that the student was loaded with
    teacher = open_teacher(run.config.teacher, device=torch.device("cpu"), seed=run.config.seed).folder
    is_folder = teacher is not None and teacher.kind is not Kind.gguf
    write_more = None
    more: dict[str, object] = {PROMPT: kept_of(run.config.prompt)}
    if not is_folder:
        # a teacher with random weights uses the vocabulary of a built-in task; a GGUF file has its own
        tokenizer = tokenizer_of(teacher, run.config.prompt, run.config.data)
        assert isinstance(tokenizer, WordTokenizer | GgufTokenizer), "those that are not files of a folder"
        write_more = tokenizer.write
        if teacher is not None:
            # a GGUF file says itself where answers end, and has no config.json to be taken over
            more["eos_token_id"] = sorted(teacher.stop_ids(tokenizer))
    write_student(
        folder,
        student,
        teacher=teacher if is_folder else None,
        write_more=write_more,
        more=more,
    )


def _refuse_misread(folder: Path, layout: str) -> None:
    """Refuse a name by which `lab generate` would look for another model, or that a file in the student cannot hold."""
    if layout != GGUF and folder.suffix == SUFFIX:
        raise ConfigError(f"{folder} ends as a GGUF file does; add --format {GGUF}, or give another name to a folder")
    if str(folder) == SHIPPED:
        raise ConfigError(f"{folder} is how commands call the teacher that comes with lab; give another name")
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{folder} is not UTF-8, as texts in the student are; give another name") from None


def _refuse_existing_or_unwritable(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise CheckpointError(f"{folder} exists; give a name that does not, or remove it")
    refuse_unwritable(folder)
