"""What a record of a conversation says, however the file that holds it is written: turns, system message, pictures."""

import base64
import binascii
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.prompt_format import IMAGE_MARK

# keys that hold a conversation
CONVERSATIONS, MESSAGES, TEXTS = "conversations", "messages", "texts"
CONVERSATION_KEYS = (CONVERSATIONS, MESSAGES, TEXTS)
IMAGE_KEYS = ("image", "images")
_SYSTEM = "system"
_DATA_URL = "data:"

# whether a sample is held out, by its key
HeldOut = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Said:
    """A conversation.

    Attributes:
        turns: question, answer, question, ..., answer.
        system: its system message; None for that of the run.
        pictures: in the order of their marks: a path, or the bytes of a file.
    """

    turns: list[str]
    system: str | None
    pictures: list[str | bytes]


def parse(content: bytes) -> dict[str, Any]:
    """The record that JSON describes.

    Raises:
        BadSample: if it is not valid JSON, or not an object.
    """
    try:
        record = json.loads(content)
    except UnicodeDecodeError:
        raise BadSample("is not UTF-8 text; convert it", Reason.wrong_json) from None
    # lists in lists without end, too
    except (ValueError, RecursionError):
        raise BadSample("is not valid JSON; repair it", Reason.wrong_json) from None
    if isinstance(record, list):
        raise BadSample(
            f'is not a JSON object but a list; write the list of messages as {{"{MESSAGES}": [...]}}', Reason.wrong_json
        )
    if not isinstance(record, dict):
        raise BadSample("is not a JSON object; repair it", Reason.wrong_json)
    return record


def said(record: Mapping[str, Any]) -> Said:
    """The conversation of a record.

    Under `conversations`, the place of a turn says whose it is, as in InternVL's code, not its key `from`; a first turn
    from `system` is the system message. Under `messages` (OpenAI), the key `role` says it. Under `texts` (The
    Cauldron), each entry is a question `user` and its answer `assistant`.

    Raises:
        BadSample: if it is not pairs of question and answer, or a picture is neither a path nor bytes.
    """
    system: str | None = None
    pictures = _pictures(record)
    if not _is_empty(record.get(MESSAGES)):
        system, turns, pictures = _messages(_listed(record[MESSAGES]), pictures)
    elif not _is_empty(record.get(TEXTS)):
        pairs = _listed(record[TEXTS])
        turns = [_text(pair, key) for pair in pairs for key in ("user", "assistant")]
    else:
        if CONVERSATIONS not in record and ("role" in record or "from" in record):
            raise BadSample(
                f'is a message, not a conversation; write the messages of each as {{"{MESSAGES}": [...]}}',
                Reason.wrong_conversation,
            )
        spoken = _listed(record.get(CONVERSATIONS))
        if spoken and isinstance(spoken[0], dict) and spoken[0].get("from") == _SYSTEM:
            system, spoken = _text(spoken[0], "value"), spoken[1:]
        turns = [_text(turn, "value") for turn in spoken]
    if not turns or len(turns) % 2:
        raise _no_pairs()
    try:
        "".join([system or "", *turns]).encode()
    except UnicodeEncodeError:
        raise BadSample(
            "it has half of a character (\\ud800 to \\udfff); repair it", Reason.wrong_conversation
        ) from None
    return Said(turns, system, pictures)


def split_key(record: Mapping[str, Any], content: bytes) -> bytes:
    """What decides the split of a sample: the paths of its pictures; its content if there are none."""
    try:
        paths = [_path_of(picture) for picture in _given(record)]
    except BadSample:
        return content.strip()
    # half of a character is reported when the record is read
    return "\n".join(path for path in paths if path).encode(errors="surrogatepass") or content.strip()


def key_of_json(content: bytes) -> bytes:
    """`split_key` of a record in JSON; a broken one is reported when it is read."""
    try:
        return split_key(parse(content), content)
    except BadSample:
        return content.strip()


def _no_pairs() -> BadSample:
    return BadSample(
        "conversations must list pairs of question and answer, each with a value; repair it",
        Reason.wrong_conversation,
    )


def _listed(value: object) -> list[Any]:
    if isinstance(value, str):
        # tables often hold a conversation as JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadSample("its conversation is not valid JSON; repair it", Reason.wrong_json) from None
    if not isinstance(value, list):
        raise _no_pairs()
    return value


def _text(turn: object, key: str) -> str:
    value = turn.get(key) if isinstance(turn, dict) else None
    if not isinstance(value, str):
        raise _no_pairs()
    return value


def _messages(messages: list[Any], given: list[str | bytes]) -> tuple[str | None, list[str], list[str | bytes]]:
    """System message, turns, and pictures in the order of their marks.

    An image mark that does not name its picture, in text or as a part, takes the next picture of the record.
    """
    system: str | None = None
    turns: list[str] = []
    waiting = deque(given)
    pictures: list[str | bytes] = []
    for place, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role == _SYSTEM and place == 0:
            # it cannot have pictures: whoever writes the prompt refuses the mark
            system, _ = _content(message)
        elif role == ("user", "assistant")[len(turns) % 2]:
            text, own = _content(message)
            turns.append(text)
            for picture in own:
                if picture is not None:
                    pictures.append(picture)
                elif waiting:
                    pictures.append(waiting.popleft())
        else:
            raise BadSample(
                f"message {place + 1} has the role {role!r}; user and assistant must take turns, after a first system "
                "message at most; repair it",
                Reason.wrong_conversation,
            )
    return system, turns, [*pictures, *waiting]


def _content(message: Mapping[str, Any]) -> tuple[str, list[str | bytes | None]]:
    """The text of a message, and for each mark in it the picture, or None."""
    content = message.get("content")
    if isinstance(content, str):
        return content, [None] * content.count(IMAGE_MARK)
    words: list[str] = []
    pictures: list[str | bytes | None] = []
    for entry in content if isinstance(content, list) else [None]:
        part: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
        kind = part.get("type")
        if kind == "text":
            words.append(_text(part, "text"))
            pictures += [None] * words[-1].count(IMAGE_MARK)
        elif kind in ("image", "image_url"):
            words.append(f"{IMAGE_MARK}\n")
            value = part.get(kind)
            value = value.get("url") if isinstance(value, dict) and "url" in value else value
            pictures.append(None if _is_empty(value) else _picture(value))
        else:
            raise BadSample(
                "the content of a message must be text, or parts of type text, image or image_url; repair it",
                Reason.wrong_conversation,
            )
    return "".join(words), pictures


def _given(record: Mapping[str, Any]) -> list[Any]:
    """What a record holds under `image` or `images`; an empty text or list, or a row of nulls, holds none.

    Raises:
        BadSample: if both hold pictures, and not the same.
    """
    values = [record.get(key) for key in IMAGE_KEYS]
    given = [
        [each for each in (value if isinstance(value, list) else [value]) if not _is_empty(each)] for value in values
    ]
    lists = [pictures for pictures in given if pictures]
    if len(lists) > 1 and lists[0] != lists[1]:
        raise BadSample("has different pictures under image and images; remove one", Reason.wrong_conversation)
    return lists[0] if lists else []


def _is_empty(value: object) -> bool:
    if isinstance(value, dict) and value:
        # a table has a row of nulls where there is no picture
        return value.keys() <= {"bytes", "path"} and all(part is None or part == "" for part in value.values())
    return value is None or value in ("", [])


def _pictures(record: Mapping[str, Any]) -> list[str | bytes]:
    return [_picture(value) for value in _given(record)]


def _picture(value: Any) -> str | bytes:
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]
    path = _path_of(value)
    if isinstance(value, bytes):
        return value
    if path is None:
        raise _no_picture()
    if path.startswith(_DATA_URL):
        try:
            return base64.b64decode(path.partition(",")[2], validate=True)
        except binascii.Error:
            raise BadSample("an image is not valid Base64; repair it", Reason.no_image) from None
    return path


def _path_of(value: Any) -> str | None:
    """The path of a picture; None where only its bytes are known."""
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value.get("path") if value.get("path") is not None else b""
    if isinstance(value, bytes):
        return None
    if not isinstance(value, str):
        raise _no_picture()
    return value


def _no_picture() -> BadSample:
    return BadSample(
        "image is neither a path nor a list of paths, nor bytes of a file; repair it", Reason.wrong_conversation
    )
