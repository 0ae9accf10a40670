"""Conversations follow the public template, image tokens have the right number, labels mark answers only."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.data.chat_template import IGNORED, Conversation, encode_conversation
from lab.core.data.prompt_format import IMAGE_CONTEXT, PromptFormat
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import ConfigError, InputError

FORMAT = PromptFormat(system="Be brief", image_size=8, patch_size=2)
TOKENIZER = WordTokenizer(
    ["\n", "?", "system", "user", "assistant", "Be", "brief", "what", "now", "bag", "shoe", "yes"]
)


class WithBeginning(WordTokenizer):
    bos_id: int | None = 9
    eos_id: int | None = None


def encode(
    turns: Sequence[str],
    tiles: Sequence[int] = (),
    reads_every_patch: bool = False,
    tokenizer: WordTokenizer = TOKENIZER,
) -> Conversation:
    written = replace(FORMAT, reads_every_patch=reads_every_patch)
    return encode_conversation(turns, tiles, tokenizer=tokenizer, prompt_format=written)


def test_the_text_is_that_of_the_public_template() -> None:
    conversation = encode(["<image>\nwhat?", "bag", "now?", "shoe yes"], [1])
    assert TOKENIZER.decode(conversation.llm_ids.tolist()) == (
        "<|im_start|>system\nBe brief<|im_end|>"
        "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img>\nwhat?<|im_end|>"
        "<|im_start|>assistant\nbag<|im_end|>"
        "<|im_start|>user\nnow?<|im_end|>"
        "<|im_start|>assistant\nshoe yes<|im_end|>"
    )


@given(
    tiles=st.lists(st.integers(1, 4), max_size=4),
    num_answers=st.integers(1, 3),
    reads_every_patch=st.booleans(),
)
def test_labels_mark_the_answers_alone(tiles: list[int], num_answers: int, reads_every_patch: bool) -> None:
    answers = ["bag", "shoe yes", "yes"][:num_answers]
    turns = [turn for answer in answers for turn in ("what now?", answer)]
    turns[0] = "<image>" * len(tiles) + turns[0]
    conversation = encode(turns, tiles, reads_every_patch)
    assert len(conversation.answers) == num_answers
    outside = np.ones(len(conversation.labels), bool)
    for answer, (start, stop) in zip(answers, conversation.answers, strict=True):
        assert TOKENIZER.decode(conversation.labels[start:stop].tolist()) == f"{answer}<|im_end|>"
        before = TOKENIZER.decode(conversation.llm_ids[start - 3 : start].tolist())
        assert before == "<|im_start|>assistant\n"
        outside[start:stop] = False
    assert (conversation.labels[outside] == IGNORED).all()
    np.testing.assert_array_equal(conversation.labels[~outside], conversation.llm_ids[~outside])


@given(tiles=st.lists(st.integers(1, 13), min_size=1, max_size=5))
def test_each_sequence_has_its_own_number_of_image_tokens(tiles: list[int]) -> None:
    turns = ["<image>\n" * len(tiles) + "what?", "bag"]
    before, after = encode(turns, tiles), encode(turns, tiles, reads_every_patch=True)
    context = TOKENIZER.id_of(IMAGE_CONTEXT)
    assert (before.llm_ids == context).sum() == sum(tiles) * 4
    assert (after.embedding_ids == context).sum() == sum(tiles) * 16
    np.testing.assert_array_equal(before.embedding_ids, before.llm_ids)
    np.testing.assert_array_equal(after.llm_ids, before.llm_ids)
    np.testing.assert_array_equal(after.labels, before.labels)
    for ids, per_tile in ((after.llm_ids, 4), (after.embedding_ids, 16)):
        np.testing.assert_array_equal(ids[ids != context], before.llm_ids[before.llm_ids != context])
        # a run of each picture, in the order of the marks
        edges = np.flatnonzero(np.diff(np.concatenate(([0], ids == context, [0]))))
        assert (edges[1::2] - edges[::2]).tolist() == [per_tile * count for count in tiles]


def test_a_picture_without_a_mark_stands_in_front_of_the_first_question() -> None:
    without, with_mark = (
        encode(["what?", "bag", "now?", "yes"], [2]),
        encode(["<image>\nwhat?", "bag", "now?", "yes"], [2]),
    )
    np.testing.assert_array_equal(without.llm_ids, with_mark.llm_ids)


def test_a_picture_may_come_with_a_later_question() -> None:
    text = TOKENIZER.decode(encode(["what?", "bag", "<image>\nnow?", "yes"], [1]).llm_ids.tolist())
    assert text.index("bag") < text.index("<img>")


def test_text_alone_has_no_image_tokens() -> None:
    conversation = encode(["what?", "bag"], reads_every_patch=True)
    assert TOKENIZER.id_of(IMAGE_CONTEXT) not in conversation.llm_ids
    np.testing.assert_array_equal(conversation.embedding_ids, conversation.llm_ids)


def test_a_language_model_without_image_tokens_can_converse() -> None:
    class TextOnly(WordTokenizer):
        def id_of(self, token: str) -> int:
            raise InputError(f"no token {token}")

    tokenizer = TextOnly(TOKENIZER.tokens[6:])
    np.testing.assert_array_equal(
        encode(["what?", "bag"], tokenizer=tokenizer).llm_ids, encode(["what?", "bag"]).llm_ids
    )
    with pytest.raises(InputError, match="IMG_CONTEXT"):
        encode(["what?", "bag"], [1], tokenizer=tokenizer)


@pytest.mark.parametrize("system", ["see <image>", "<img>", "<IMG_CONTEXT>"])
def test_a_system_message_has_no_pictures(system: str) -> None:
    with pytest.raises(ConfigError, match="system="):
        PromptFormat(system=system)


def test_after_a_last_question_the_turn_of_the_assistant_is_open() -> None:
    conversation = encode(["what?", "bag", "now?"])
    assert TOKENIZER.decode(conversation.llm_ids.tolist()).endswith("now?<|im_end|><|im_start|>assistant\n")
    whole = encode(["what?", "bag", "now?", "yes"])
    np.testing.assert_array_equal(conversation.llm_ids, whole.llm_ids[: len(conversation.llm_ids)])
    assert conversation.answers == whole.answers[:1]


def test_a_tokenizer_with_a_beginning_token_has_it_once_in_front() -> None:
    plain = encode(["what?", "bag"])
    conversation = encode(["what?", "bag"], tokenizer=WithBeginning(TOKENIZER.tokens[6:]))
    assert conversation.llm_ids.tolist() == [9, *plain.llm_ids.tolist()]
    assert conversation.answers == tuple((start + 1, stop + 1) for start, stop in plain.answers)


def test_a_token_that_joins_header_and_answer_belongs_to_the_answer() -> None:
    class Joining(WordTokenizer):
        """Takes a line break and the answer behind it as one token."""

        def encode(self, text: str) -> list[int]:
            ids = super().encode(text)
            yes, line_break = self.id_of("yes"), self.id_of("\n")
            for i in range(len(ids) - 1, 0, -1):
                if ids[i - 1 : i + 1] == [line_break, yes]:
                    ids[i - 1 : i + 1] = [len(self)]
            return ids

    tokenizer = Joining(TOKENIZER.tokens[6:])
    conversation = encode(["what?", "yes"], tokenizer=tokenizer)
    ((start, stop),) = conversation.answers
    assert conversation.llm_ids[start:stop].tolist() == [len(tokenizer), tokenizer.id_of("<|im_end|>")]


@pytest.mark.parametrize(
    ("turns", "tiles", "match"),
    [
        ([], [], "turns is empty"),
        (["<image><image>what?", "bag"], [1], "2 <image> marks but 1 images"),
        (["<image>what?", "bag"], [], "1 <image> marks but 0 images"),
        (["<image>what?", "bag"], [1, 1], "2 images but 1 <image> marks"),
        (["what?", "bag"], [1, 1], "2 images but 0 <image> marks"),
        (["<image>what?", "bag <image>"], [1], "the answer"),
        (["<IMG_CONTEXT>what?", "bag"], [], "an image token"),
        (["what?", "</img>"], [], "an image token"),
    ],
)
def test_marks_that_do_not_fit_the_pictures_are_refused(turns: list[str], tiles: list[int], match: str) -> None:
    with pytest.raises(InputError, match=match):
        encode(turns, tiles)
