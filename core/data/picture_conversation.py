"""Conversations about pictures, written by the chat template of a model with a vision tower.

As the processors of transformers write them: the template puts one image token where a picture stands, which becomes as
many as the picture has.
"""

from collections.abc import Sequence
from datetime import date

from lab.core.data.chat_template import Conversation, marked_questions, with_image_tokens
from lab.core.data.jinja_chat import JinjaChat, Message
from lab.core.data.picture_format import TowerFormat
from lab.core.data.prompt_format import IMAGE_MARK, PromptFormat
from lab.core.data.text_conversation import Written
from lab.core.errors import InputError
from lab.core.tokenizer import Tokenizer


def encode_picture_conversation(
    turns: Sequence[str],
    tiles_per_image: Sequence[int],
    *,
    tokenizer: Tokenizer,
    chat: JinjaChat,
    prompt_format: PromptFormat,
    tower: TowerFormat,
    day: date,
) -> Conversation:
    """The ids of a conversation about any number of pictures; see `Conversation`.

    Args:
        turns: question, answer, question, ...; after a last question without an answer the assistant's turn is left
            open, for generation. A line break next to an image mark belongs to the mark: templates write their own.
        tiles_per_image: tiles of each picture, thumbnails included, in the order of the marks.
        tokenizer: of the model.
        chat: its template.
        prompt_format: of the model.
        tower: how pictures are written.
        day: for templates that write it.

    Raises:
        InputError: if the tokenizer lacks the image token, there are no turns, marks and pictures do not match, a turn
            holds an image token, the template refuses the conversation or leaves out a picture, or it writes earlier
            turns otherwise than it asked for them.
    """
    token = _image_token(tokenizer, tower.image_token_id)
    image_tokens = [each for each in (tower.start, token, tower.end) if each not in ("", IMAGE_MARK)]
    questions = marked_questions(turns, len(tiles_per_image), image_tokens)
    messages: list[Message] = []
    if prompt_format.system:
        messages.append({"role": "system", "content": text_parts(prompt_format.system)})
    num_before = len(messages)
    for i, turn in enumerate(turns):
        content = text_parts(turn) if i % 2 else _with_pictures(questions[i // 2])
        messages.append({"role": ("user", "assistant")[i % 2], "content": content})

    def encode(text: str) -> list[int]:
        ids = tokenizer.encode(text)
        # as the processors do, unless the template has written it
        is_opened = tokenizer.bos_id is None or ids[:1] == [tokenizer.bos_id]
        return ids if is_opened or tokenizer.bos_id is None else [tokenizer.bos_id, *ids]

    def finish(text: str) -> str:
        return text.replace(token, tower.start + token + tower.end)

    written = Written(chat, encode, tokenizer.decode, day, finish)
    following: Message = {"role": "user", "content": text_parts(".")}
    ids, answers = written.ids_and_answers(messages, [following], turns[1::2], num_before=num_before)
    num_written = ids.count(tower.image_token_id)
    if num_written != len(tiles_per_image):
        raise InputError(
            f"the chat template of {chat.origin} writes {num_written} image tokens for {len(tiles_per_image)} images; "
            "copy the template of the model's release"
        )
    return with_image_tokens(ids, answers, tower.image_token_id, tiles_per_image, prompt_format)


def text_parts(text: str) -> list[dict[str, str]]:
    """A text as the content of a message."""
    return [{"type": "text", "text": text}]


def _image_token(tokenizer: Tokenizer, image_token_id: int) -> str:
    """The text of the image token, which marks in a text the place of a picture."""
    text = tokenizer.decode([image_token_id])
    if not text.strip() or tokenizer.encode(text).count(image_token_id) != 1:
        raise InputError(
            f"the image token {image_token_id} of config.json is {text!r} in the tokenizer, which does not read that "
            "back as this token; copy config.json and the tokenizer of the model's release"
        )
    return text


def _with_pictures(question: str) -> list[dict[str, str]]:
    """Text and pictures in the order of the marks."""
    texts = question.split(IMAGE_MARK)
    parts: list[dict[str, str]] = []
    for place, text in enumerate(texts):
        inner = text if place == 0 else text.removeprefix("\n")
        inner = inner if place == len(texts) - 1 else inner.removesuffix("\n")
        parts += [{"type": "image"}] if place else []
        parts += text_parts(inner) if inner else []
    return parts
