"""A tokenizer with a fixed list of words, and how the tokenizer in a folder is loaded."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from lab.core.data.prompt_format import IMAGE_TOKENS, TURN_END, TURN_START
from lab.core.data.public_tokenizers import GgufTokenizer, JsonTokenizer, SentencePieceTokenizer
from lab.core.errors import CheckpointError, InputError
from lab.core.runs.atomic_files import make_folder, refuse_special, write_atomically
from lab.core.runs.json_files import read_json_object
from lab.core.tokenizer import Tokenizer

PADDING = "<pad>"
SPECIAL_TOKENS = (PADDING, TURN_START, TURN_END, *IMAGE_TOKENS)

_VOCABULARY_FILE = "vocabulary.json"


class WordTokenizer:
    """One id for every word, mark of punctuation, line break and special token of a fixed list.

    Spaces only separate words. Text whose marks of punctuation follow a word directly, with a space after them, is
    returned unchanged by `decode(encode(text))`.
    """

    bos_id: int | None = None
    eos_id: int | None = None
    chat = None

    def __init__(self, words: Sequence[str]) -> None:
        """The special tokens take the first ids, the padding id 0; `words` follow in their order.

        Raises:
            InputError: if a word occurs twice or holds a space.
        """
        self.tokens = (*SPECIAL_TOKENS, *words)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) < len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if self._ids[token] != index)
            raise InputError(f"words holds {twice!r} twice; leave one of them out")
        for word in words:
            if split_words(word) != [word]:
                raise InputError(f"words holds {word!r}, which is not a single word; split it")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def digest(self) -> str:
        """See `Fingerprinted`."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises:
            InputError: naming the first word that is not in the list.
        """
        try:
            return [self._ids[piece] for piece in split_words(text)]
        except KeyError as error:
            raise InputError(
                f"the word {error} is not among the {len(self)} that this model was trained with; use other words"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids.

        Raises:
            InputError: if there is no such id.
        """
        text = ""
        for index in ids:
            if not 0 <= index < len(self):
                raise InputError(f"token id {index} must lie in [0, {len(self)}); use ids of this vocabulary")
            token = self.tokens[index]
            is_glued = not text or token in CLOSING or token in SPECIAL_TOKENS or text.endswith((">", "\n"))
            text += token if is_glued else f" {token}"
        return text

    def id_of(self, token: str) -> int:
        """The id of one token.

        Raises:
            InputError: if it is not in the list.
        """
        if token not in self._ids:
            raise InputError(f"the token {token!r} is not in the vocabulary; use one of its {len(self)}")
        return self._ids[token]

    def write(self, folder: Path) -> None:
        """Write the list of words to `vocabulary.json` in the folder."""
        words = list(self.tokens[len(SPECIAL_TOKENS) :])
        make_folder(folder)
        write_atomically(folder / _VOCABULARY_FILE, json.dumps({"words": words}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "WordTokenizer":
        """The tokenizer that `write` left in a folder.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        path = folder / _VOCABULARY_FILE
        hint = "copy it from the teacher"
        content = read_json_object(path, hint=hint, error=CheckpointError)
        try:
            return cls([str(word) for word in content["words"]])
        except (InputError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a list of words ({error}); {hint}") from None


def split_words(text: str) -> list[str]:
    """Words, marks of punctuation, line breaks and special tokens of a text, in their order."""
    return PIECE.findall(text)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a folder: its list of words if there is one, else the files of a public checkpoint.

    A GGUF file in place of the folder holds its own.

    Raises:
        BackendError: if a package that reads it is not installed.
        CheckpointError: if there is none, or it is damaged.
    """
    if folder.suffix == ".gguf":
        return GgufTokenizer(folder)
    for name in (_VOCABULARY_FILE, "tokenizer.json", "tokenizer.model"):
        refuse_special(folder / name, CheckpointError)
    if (folder / _VOCABULARY_FILE).exists():
        return WordTokenizer.read(folder)
    if (folder / "tokenizer.json").exists():
        return JsonTokenizer(folder / "tokenizer.json")
    if (folder / "tokenizer.model").exists():
        return SentencePieceTokenizer(folder / "tokenizer.model")
    raise CheckpointError(
        f"{folder} has none of {_VOCABULARY_FILE}, tokenizer.json and tokenizer.model; copy the teacher's into it"
    )


CLOSING = frozenset(".,:;?!\n")
PIECE = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)) + r"|\n|[.,:;?!]|[^\s.,:;?!<>]+|\S")
