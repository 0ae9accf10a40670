"""`lab export`: a distilled student as a checkpoint folder that is complete or absent."""

import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import torch

from lab.core.data.public_tokenizers import GgufTokenizer
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import CheckpointError
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import PROMPT, Kind
from lab.core.models.student_format import block_type, write_student
from lab.core.runs.atomic_files import refuse_unwritable
from lab.experiments.distill.data import tokenizer_of
from lab.experiments.distill.load import kept_of, load_finished
from lab.experiments.distill.sources import RecordedRun, StudentSelector, choose_node, find_recorded
from lab.experiments.distill.teacher import open_teacher


def main(run_name: str, folder: Path, selector: StudentSelector) -> str:
    """Write a student of a run.

    Args:
        run_name: its directory, or the end of its name.
        folder: must not exist.
        selector: which of the run's students.

    Returns:
        What was written, in one line.

    Raises:
        CheckpointError: if the folder exists, or files of the run or its teacher are missing or damaged.
        ConfigError: if the layout cannot hold the student.
        RunError: if there is no such run or no finished student in it, or the folder cannot be written.
    """
    # fail before a large teacher is loaded
    _refuse_used(folder)
    run = find_recorded(run_name)
    node = choose_node(run, selector)
    student = load_finished(run, node, device=torch.device("cpu"))
    _write(folder, student, run)
    kinds = Counter(block_type(layer.layer.mixer) for layer in student.mixer_layers())
    layers = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), reverse=True))
    stage = f"stage {node.stage}" if node.stage else "the untrained student"
    return f"{folder}: the student of {run.folder.name} after {stage}, {layers} layers"


def _write(folder: Path, student: LanguageModel, run: RecordedRun) -> None:
    # cached: the teacher that the student was loaded with
    teacher = open_teacher(run.config.teacher, device=torch.device("cpu"), seed=run.config.seed).folder
    is_folder = teacher is not None and teacher.kind is not Kind.gguf
    with ExitStack() as stack:
        carried: list[Path] = []
        if not is_folder:
            # a teacher with random weights uses the vocabulary of a built-in task; a GGUF file has its own
            tokenizer = tokenizer_of(teacher, run.config.prompt, run.config.data)
            assert isinstance(tokenizer, WordTokenizer | GgufTokenizer), "those that are not files of a folder"
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            tokenizer.write(scratch)
            carried = list(scratch.iterdir())
        write_student(
            folder,
            student,
            teacher=teacher if is_folder else None,
            carried=carried,
            more={PROMPT: kept_of(run.config.prompt)},
        )


def _refuse_used(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise CheckpointError(f"{folder} exists; give a folder that does not, or remove it")
    refuse_unwritable(folder)
