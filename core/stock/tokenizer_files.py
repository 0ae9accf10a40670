"""The files that transformers reads of a tokenizer: taken from the teacher, or made of ours."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.core.data.jinja_chat import SETTINGS_FILE, TEMPLATE_FILE, chat_of_folder
from lab.core.data.public_tokenizers import GgufTokenizer, SentencePieceTokenizer
from lab.core.data.tokenizers import WordTokenizer
from lab.core.data.word_tokenizer_json import write_word_tokenizer
from lab.core.errors import CheckpointError
from lab.core.models.folder import Kind, ModelFolder
from lab.core.models.gguf import write_gguf_tokenizer
from lab.core.models.hf_config import load_json
from lab.core.runs.atomic_files import default_mode
from lab.core.runs.json_files import write_json
from lab.core.stock.verify import quiet
from lab.core.tokenizer import Tokenizer

# of a teacher's folder; code beside them is never run, and not carried
_CARRIED = (
    *("tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt"),
    *("merges.txt", "vocabulary.json", TEMPLATE_FILE),
)
# of transformers 5: reads tokens that take the place of pieces of the vocabulary, as InternLM2's do
_SENTENCEPIECE = "SentencePieceBackend"


def write_tokenizer(folder: Path, tokenizer: Tokenizer, teacher: ModelFolder | None, template: str | None) -> None:
    """Write a tokenizer into a folder that is being made.

    Args:
        folder: of the student.
        tokenizer: of the student.
        teacher: whose files are taken; None for a vocabulary of a built-in task.
        template: of chats; None for the teacher's, if it has one.

    Raises:
        CheckpointError: if the teacher's files are damaged.
        OSError: if they cannot be written.
    """
    if isinstance(tokenizer, WordTokenizer):
        tokenizer.write(folder)
        write_word_tokenizer(tokenizer, folder)
    elif isinstance(tokenizer, GgufTokenizer):
        assert teacher is not None, "its file"
        write_gguf_tokenizer(teacher.path, folder)
    elif teacher is not None:
        _carry(teacher, folder)
    if template is not None:
        (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(default_mode())


def settled_difference(folder: Path, tokenizer: Tokenizer, ids: Sequence[int]) -> str | None:
    """`tokenizer_difference`, once tokenizer_config.json names the class that reads the vocabulary as it is meant.

    Args:
        folder: of the student, whose tokenizer_config.json may be rewritten.
        tokenizer: of the student.
        ids: of a text.
    """
    difference = tokenizer_difference(folder, tokenizer, ids)
    if difference is None or not isinstance(tokenizer, SentencePieceTokenizer):
        return difference
    settings = json.loads(json.dumps(load_json(folder / SETTINGS_FILE)))
    listed = settings.get("added_tokens_decoder", {})
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    every = {str(index): {"content": token, **flags} for token, index in tokenizer.added.items()}
    changed = {**settings, "tokenizer_class": _SENTENCEPIECE, "added_tokens_decoder": {**every, **listed}}
    write_json(folder / SETTINGS_FILE, changed)
    if tokenizer_difference(folder, tokenizer, ids) is None:
        return None
    write_json(folder / SETTINGS_FILE, settings)
    return difference


def tokenizer_difference(folder: Path, tokenizer: Tokenizer, ids: Sequence[int]) -> str | None:
    """Why transformers does not read a text as the tokenizer does, in words; None if it does.

    Args:
        folder: of the student.
        tokenizer: of the student.
        ids: of a text.
    """
    import transformers  # noqa: PLC0415

    text = tokenizer.decode(ids)
    try:
        with quiet(folder):
            found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            encoded = found.encode(text, add_special_tokens=False)
    except CheckpointError as error:
        return str(error).partition(": ")[2]
    return None if encoded == tokenizer.encode(text) else "it gives other ids"


def missing_for_processor(folder: Path) -> str | None:
    """Why `AutoProcessor` of transformers does not read a folder here, in words; None if it does.

    Args:
        folder: of the student, with processor_config.json.
    """
    import transformers  # noqa: PLC0415

    # untyped in some installations of transformers, typed in others
    read: Any = transformers.AutoProcessor.from_pretrained
    try:
        with quiet(folder):
            read(folder, local_files_only=True)
    # a library that transformers asks for, such as torchvision for the videos of internvl
    except ImportError as error:
        return " ".join(str(error).split()).partition(". ")[0]
    except CheckpointError as error:
        return str(error).partition(": ")[2]
    return None


def _carry(teacher: ModelFolder, folder: Path) -> None:
    if teacher.kind is Kind.gguf:
        return
    for path in teacher.other_files():
        if path.name in _CARRIED:
            (folder / path.name).write_bytes(path.read_bytes())
    chat = chat_of_folder(teacher.path)
    # a file that newer releases of transformers no longer read
    if chat is not None and chat.origin not in (TEMPLATE_FILE, SETTINGS_FILE):
        (folder / TEMPLATE_FILE).write_text(chat.source, encoding="utf-8")
    settings: dict[str, object] = {}
    if (teacher.path / SETTINGS_FILE).is_file():
        settings = json.loads(json.dumps(load_json(teacher.path / SETTINGS_FILE)))
    # a class of the teacher's own code, which is not carried
    if settings.pop("auto_map", None) is not None or "tokenizer_class" not in settings:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / SETTINGS_FILE, settings)
