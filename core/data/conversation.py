"""Which chat template writes the conversations of a model, and their ids."""

from collections.abc import Sequence
from datetime import date

from lab.core.data.chat_template import Conversation, encode_conversation
from lab.core.data.jinja_chat import FIXED_DAY
from lab.core.data.picture_conversation import encode_picture_conversation
from lab.core.data.prompt_format import TURN_END, TURN_START, PromptFormat
from lab.core.data.text_conversation import encode_text_conversation
from lab.core.errors import InputError
from lab.core.tokenizer import Tokenizer

INTERNLM2 = "internlm2-chat"


def template_of(tokenizer: Tokenizer, prompt_format: PromptFormat) -> str | None:
    """The name of the template that writes conversations: HoVLE's, or the file that the model brings.

    None for a model that has none. A text model whose tokenizer knows HoVLE's turns is written like HoVLE.
    """
    if prompt_format.tower is not None:
        return None if tokenizer.chat is None else tokenizer.chat.origin
    if not prompt_format.has_images and tokenizer.chat is not None:
        return tokenizer.chat.origin
    try:
        for token in (TURN_START, TURN_END):
            tokenizer.id_of(token)
    except InputError:
        return None
    return INTERNLM2


def encode(
    turns: Sequence[str],
    tiles_per_image: Sequence[int],
    *,
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    day: date = FIXED_DAY,
) -> Conversation:
    """The ids of a conversation, by the template of the model.

    See `encode_conversation`, `encode_text_conversation` and `encode_picture_conversation`.

    Raises:
        InputError: as these, or if a model that writes by its own template has none.
    """
    tower = prompt_format.tower
    if tower is not None and tokenizer.chat is not None:
        return encode_picture_conversation(
            turns,
            tiles_per_image,
            tokenizer=tokenizer,
            chat=tokenizer.chat,
            prompt_format=prompt_format,
            tower=tower,
            day=day,
        )
    if not prompt_format.has_images and tokenizer.chat is not None and not tiles_per_image:
        chat = tokenizer.chat
        return encode_text_conversation(turns, tokenizer=tokenizer, chat=chat, system=prompt_format.system, day=day)
    if template_of(tokenizer, prompt_format) is None:
        raise InputError(
            "the model has no chat template, in chat_template.jinja or tokenizer_config.json, to write conversations "
            "with; put the file beside its tokenizer"
        )
    return encode_conversation(turns, tiles_per_image, tokenizer=tokenizer, prompt_format=prompt_format)
