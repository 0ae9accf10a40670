"""Conversations written by the chat template of the model's own tokenizer, in words alone or about pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from lab.core.data.chat_template import IGNORED, Conversation, common_prefix
from lab.core.data.jinja_chat import FIXED_DAY, JinjaChat, Message
from lab.core.errors import InputError
from lab.core.tokenizer import Tokenizer

_NEXT: Message = {"role": "user", "content": "."}


def encode_text_conversation(
    turns: Sequence[str], *, tokenizer: Tokenizer, chat: JinjaChat, system: str, day: date = FIXED_DAY
) -> Conversation:
    """The ids of a conversation; see `Conversation`.

    Args:
        turns: question, answer, question, ...; after a last question without an answer the assistant's turn is left
            open, for generation.
        tokenizer: of the model.
        chat: its template, which also writes the beginning of the sequence.
        system: the system message; without one, the template may write its own.
        day: for templates that write it.

    Raises:
        InputError: if there are no turns, the template refuses them, or it writes earlier turns otherwise than it asked
            for them, so that they cannot be told from the answer.
    """
    if not turns:
        raise InputError("turns is empty but must begin with a question; give one")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    num_before = len(messages)
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    written = Written(chat, tokenizer.encode, tokenizer.decode, day)
    ids, spans = written.ids_and_answers(messages, [_NEXT], turns[1::2], num_before=num_before)
    llm_ids = np.array(ids, dtype=np.int64)
    labels = np.full_like(llm_ids, IGNORED)
    for start, stop in spans:
        labels[start:stop] = llm_ids[start:stop]
    return Conversation(llm_ids, llm_ids, labels, tuple(spans))


@dataclass(frozen=True, slots=True)
class Written:
    """How a chat template and a tokenizer write messages.

    Attributes:
        chat: the template.
        encode: a text to its ids.
        decode: ids to their text.
        day: for templates that write it.
        finish: what becomes of a text before it is encoded.
    """

    chat: JinjaChat
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    day: date
    finish: Callable[[str], str] = str

    def text(self, messages: Sequence[Message], *, is_open: bool) -> str:
        """The text of a conversation."""
        return self.finish(self.chat.render(messages, is_open=is_open, day=self.day))

    def ids_and_answers(
        self, messages: Sequence[Message], following: Sequence[Message], answers: Sequence[str], *, num_before: int
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a conversation, and where its answers are among them.

        Args:
            messages: of the conversation.
            following: a question that may follow it.
            answers: the text of every answer.
            num_before: messages before the first question.

        Raises:
            InputError: if the template refuses them, or writes earlier turns otherwise than it asked for them.
        """
        text = self.text(messages, is_open=(len(messages) - num_before) % 2 == 1)
        ids = self.encode(text)
        if not ids:
            raise InputError(f"the chat template of {self.chat.origin} writes nothing for this conversation; mend it")
        spans = []
        for place, answer in zip(range(num_before + 1, len(messages), 2), answers, strict=True):
            before = self.text(messages[:place], is_open=True)
            start = common_prefix(ids, self.encode(before))
            least = len(before) + len(answer.strip())
            ends = [
                self._end(text, self.text(said, is_open=False), ids, start, least)
                # some templates close the whole text behind the last turn, which nobody generates
                for said in (messages[: place + 1], [*messages[: place + 1], *following])
            ]
            known = [end for end in ends if end is not None]
            if not known or not text.startswith(before):
                raise InputError(
                    f"the chat template of {self.chat.origin} writes an answer otherwise once another turn follows, or "
                    "elsewhere than it is generated; give conversations of one question and one answer"
                )
            spans.append((start, min(known)))
        return ids, spans

    def _end(self, text: str, alone: str, ids: Sequence[int], start: int, least: int) -> int | None:
        """The end of an answer among the ids of a text; None if the text is another one before the answer's end.

        Args:
            text: the conversation.
            alone: the same up to the answer.
            ids: of the text.
            start: of the answer among the ids.
            least: characters that the text must have in common with the other to hold the answer.
        """
        if not text.startswith(alone[:least]):
            return None
        stop = common_prefix(ids, self.encode(alone))
        # line breaks behind the end of the turn are not generated
        while stop > start and self.decode([ids[stop - 1]]).isspace():
            stop -= 1
        return stop
