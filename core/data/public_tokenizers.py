"""The tokenizers of public checkpoints, read from their files alone: none of the code beside them is run.

`tokenizer.json` is read by the library tokenizers, `tokenizer.model` by sentencepiece; the tokens that were added to
the latter, such as `<IMG_CONTEXT>`, stand in `added_tokens.json` and `tokenizer_config.json`. transformers makes of the
vocabulary in a GGUF file what `tokenizer.json` would hold.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from lab.core.data.jinja_chat import JinjaChat, chat_of_folder, end_of_text
from lab.core.errors import CheckpointError, InputError
from lab.core.optional_packages import load_package
from lab.core.runs.atomic_files import write_atomically
from lab.core.runs.json_files import read_json_object


class JsonTokenizer:
    """A tokenizer in one file, `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            BackendError: if the library is not installed.
            CheckpointError: if the file is missing or damaged.
        """
        tokenizers = load_package("tokenizers", needed_by=path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        # the library raises Exception itself
        except Exception as error:
            raise CheckpointError(f"{path} is not a tokenizer ({_first_line(error)}); copy it again") from None
        _whole_texts(self._tokenizer)
        self.chat = chat_of_folder(path.parent)
        self._end = end_of_text(path.parent)

    @property
    def eos_id(self) -> int | None:
        """The id of the token that the files call the end of a text, if they name one."""
        index: int | None = None if self._end is None else self._tokenizer.token_to_id(self._end)
        return index

    @property
    def digest(self) -> str:
        """See `Fingerprinted`."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    @cached_property
    def bos_id(self) -> int | None:
        """The id that the file puts in front of every text, if any."""
        # what is put behind a text, such as the end that models of embeddings read, stands alone here too
        if not self._tokenizer.encode("").ids:
            return None
        encoding = next(self._encodings_of_something(), None)
        # tokens that are of no text have no number of one
        return None if encoding is None or encoding.sequence_ids[0] is not None else encoding.ids[0]

    def _encodings_of_something(self) -> Iterator[Any]:
        """Texts with at least one token of their own, encoded with the tokens that are added to every text."""
        # a letter may be no token, and a list of words then raises Exception itself
        for text in chain("a", self._tokenizer.get_vocab(with_added_tokens=True)):
            with contextlib.suppress(Exception):
                encoding = self._tokenizer.encode(text)
                if any(number is not None for number in encoding.sequence_ids):
                    yield encoding

    def __len__(self) -> int:
        """Ids up to the last that has a text, added tokens included: a vocabulary may have gaps."""
        return self._num_ids

    @cached_property
    def _num_ids(self) -> int:
        # of a large vocabulary it takes longer than many answers need; the library itself counts tokens, not ids
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens in it recognised, none added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def id_of(self, token: str) -> int:
        """The id of one token.

        Raises:
            InputError: if the vocabulary does not have it.
        """
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise InputError(f"the tokenizer has no token {token!r}; use a model that was trained with it")
        return index


class GgufTokenizer(JsonTokenizer):
    """The tokenizer in a GGUF file."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            BackendError: if transformers, accelerate or gguf is not installed.
            CheckpointError: if the file is missing, damaged, or holds no tokenizer that transformers can read.
        """
        # a process that makes samples does without torch, which models need
        from lab.core.models.gguf import read_gguf_tokenizer  # noqa: PLC0415

        self._tokenizer, template, tokens = read_gguf_tokenizer(path)
        _whole_texts(self._tokenizer)
        self.chat = None if template is None else JinjaChat(template, tokens, path.name)
        self._end = dict(tokens).get("eos_token")

    def write(self, folder: Path) -> None:
        """Write it as the `tokenizer.json` that `JsonTokenizer` reads, with its chat template.

        Raises:
            RunError: if the disk is full or cannot be written.
        """
        write_atomically(folder / "tokenizer.json", self._tokenizer.to_str())
        if self.chat is not None:
            self.chat.write(folder)


class SentencePieceTokenizer:
    """A sentencepiece model, `tokenizer.model`, and the tokens that were added to it, as InternLM2 has them."""

    def __init__(self, path: Path) -> None:
        """Read the model, and the files with added tokens in its folder.

        Raises:
            BackendError: if the library is not installed.
            CheckpointError: if a file is missing or damaged.
        """
        sentencepiece = load_package("sentencepiece", needed_by=path)
        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is not a sentencepiece model ({_first_line(error)}); copy it again"
            ) from None
        settings = _object_if_there(path.with_name("tokenizer_config.json"))
        self.bos_id: int | None = _index(self._model.bos_id()) if settings.get("add_bos_token", True) else None
        self.eos_id: int | None = _index(self._model.eos_id())
        self.chat = chat_of_folder(path.parent)
        self._added = _added_tokens(path.parent, settings)
        self._names = {index: token for token, index in self._added.items()}
        # the longest first, so that no token hides another that begins with it
        longest_first = sorted(self._added, key=len, reverse=True)
        self._splitter = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self._added else None

    @property
    def added(self) -> dict[str, int]:
        """The ids of the tokens that stand beside the model, by their text."""
        return dict(self._added)

    @property
    def digest(self) -> str:
        """See `Fingerprinted`."""
        added = json.dumps(sorted(self._added.items())).encode()
        return hashlib.sha256(self._model.serialized_model_proto() + added).hexdigest()

    def __len__(self) -> int:
        """Ids up to the last that has a text, added tokens included."""
        return max(int(self._model.get_piece_size()), *(index + 1 for index in self._added.values()), 0)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, added tokens in it recognised, none put in."""
        ids: list[int] = []
        for piece in self._splitter.split(text) if self._splitter else [text]:
            if piece in self._added:
                ids.append(self._added[piece])
            elif piece:
                ids += self._model.encode(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, added tokens included."""
        text = ""
        plain: list[int] = []
        for index in ids:
            if index not in self._names:
                plain.append(index)
                continue
            text += self._model.decode(plain) + self._names[index]
            plain = []
        return text + str(self._model.decode(plain))

    def id_of(self, token: str) -> int:
        """The id of one token.

        Raises:
            InputError: if the vocabulary does not have it.
        """
        index = self._added.get(token, self._model.piece_to_id(token))
        if token not in self._added and index == self._model.unk_id():
            raise InputError(f"the tokenizer has no token {token!r}; use a model that was trained with it")
        return int(index)


def _whole_texts(tokenizer: Any) -> None:
    """Drop how a file cuts and fills texts: settings of the batches that its model was trained on, not of the model."""
    tokenizer.no_truncation()
    tokenizer.no_padding()


def _index(given: int) -> int | None:
    """An id that sentencepiece gives: its word for none is -1."""
    return given if given >= 0 else None


def _added_tokens(folder: Path, settings: dict[str, Any]) -> dict[str, int]:
    path = folder / "added_tokens.json"
    added = _object_if_there(path)
    described = settings.get("added_tokens_decoder", {})
    try:
        listed = {str(token): int(index) for token, index in added.items()}
        return listed | {str(token["content"]): int(index) for index, token in described.items()}
    except (TypeError, ValueError, KeyError, AttributeError):
        raise CheckpointError(
            f"{path} and tokenizer_config.json beside it do not say which tokens were added; copy both again"
        ) from None


def _object_if_there(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no such file."""
    return read_json_object(path, hint="copy it again", error=CheckpointError) if path.exists() else {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
