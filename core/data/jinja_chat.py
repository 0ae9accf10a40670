"""Chat templates of public checkpoints: Jinja in `chat_template.jinja`, `tokenizer_config.json` or a GGUF file.

They are rendered as transformers' `apply_chat_template` does, in Jinja's sandbox and in another process with limits, so
that token ids are the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypedDict

from lab.core.data.template_renderer import RENDERER
from lab.core.errors import CheckpointError, InputError
from lab.core.runs.atomic_files import refuse_special, write_atomically
from lab.core.runs.json_files import read_json_object

TEMPLATE_FILE, SETTINGS_FILE, NAMES_FILE = "chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"
# of processors of transformers 4, the same under a key
_PROCESSOR_FILE = "chat_template.json"
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# of a file that holds several, the one for conversations without tools
_DEFAULT = "default"
# what templates of Llama 3.1 write where nobody tells them the day: a training must not depend on it
FIXED_DAY = date(2024, 7, 26)


class Message(TypedDict):
    """A turn of a conversation; `role` is `system`, `user` or `assistant`.

    Templates of models with a vision tower read lists of parts: `{"type": "text", "text": ...}`, `{"type": "image"}`.
    """

    role: str
    content: str | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class JinjaChat:
    """A chat template.

    Attributes:
        source: of the template.
        special_tokens: what it may call by name, such as `bos_token`.
        origin: the file that it is from, for messages.
    """

    source: str
    special_tokens: tuple[tuple[str, str], ...]
    origin: str

    def render(self, messages: Sequence[Message], *, is_open: bool, day: date = FIXED_DAY) -> str:
        """The text of a conversation.

        Args:
            messages: its turns.
            is_open: whether the assistant's next turn is opened, for generation.
            day: for templates that write it.

        Raises:
            InputError: if the template refuses the conversation, or cannot be rendered.
        """
        request = {
            "source": self.source,
            "names": dict(self.special_tokens),
            "messages": list(messages),
            "is_open": is_open,
            "day": day.isoformat(),
        }
        try:
            return RENDERER.render(request)
        except InputError as error:
            raise InputError(f"the chat template of {self.origin} cannot be rendered: {error}") from None

    def write(self, folder: Path) -> None:
        """Write the files that `chat_of_folder` reads."""
        write_atomically(folder / TEMPLATE_FILE, self.source)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(self.special_tokens)}
        write_atomically(folder / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")


def chat_of_folder(folder: Path) -> JinjaChat | None:
    """The chat template among the files of a tokenizer; None if there is none.

    Raises:
        CheckpointError: if a file is damaged.
    """
    settings = _object_if_there(folder / SETTINGS_FILE)
    names = special_tokens(_object_if_there(folder / NAMES_FILE) | settings)
    path = folder / TEMPLATE_FILE
    refuse_special(path, CheckpointError)
    if path.is_file():
        try:
            return JinjaChat(path.read_text(encoding="utf-8"), names, TEMPLATE_FILE)
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); copy it again") from None
    older = _object_if_there(folder / _PROCESSOR_FILE).get("chat_template")
    if isinstance(older, str):
        return JinjaChat(older, names, _PROCESSOR_FILE)
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get(_DEFAULT)
    if found is None:
        return None
    if not isinstance(found, str):
        raise CheckpointError(f"{folder / SETTINGS_FILE}: chat_template is not text; copy the file again")
    return JinjaChat(found, names, SETTINGS_FILE)


def end_of_text(folder: Path) -> str | None:
    """The token that ends a text, by the files of a tokenizer; None if they name none.

    Raises:
        CheckpointError: if a file is damaged.
    """
    settings = _object_if_there(folder / NAMES_FILE) | _object_if_there(folder / SETTINGS_FILE)
    return dict(special_tokens(settings)).get("eos_token")


def special_tokens(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The special tokens that a template may call by name; each is a text, or an object with its `content`."""
    found = {}
    for name in _NAMES:
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return tuple(found.items())


def _object_if_there(path: Path) -> dict[str, Any]:
    refuse_special(path, CheckpointError)
    return read_json_object(path, hint="copy it again", error=CheckpointError) if path.exists() else {}
