"""Conversations with images as token ids: InternLM2's chat template with image tokens, and labels for the answers.

A turn is written `<|im_start|>role`, a line break, its text, `<|im_end|>`. Every `<image>` in a question becomes
`<img>`, one `<IMG_CONTEXT>` for each token of the picture, `</img>`. With the pixel shuffle after the embedding
(`post`), an image has one token per patch in the sequence of the embedding, and a quarter as many in that of the
language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.prompt_format import (
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_MARK,
    IMAGE_START,
    IMAGE_TOKENS,
    TURN_END,
    TURN_START,
    PromptFormat,
)
from lab.core.errors import InputError
from lab.core.tokenizer import Tokenizer

# Letters: T tokens of the language model, E tokens of the embedding.

# the label of positions without a target, as in torch
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as ids.

    Attributes:
        embedding_ids: what the embedding reads.
        llm_ids: what the language model reads, position by position.
        labels: `llm_ids` where an answer or the end of its turn stands, `IGNORED` elsewhere. Not shifted: the logits at
            position t - 1 are to give the label at t.
        answers: start and stop of each answer in `labels`, the end of its turn included.
    """

    embedding_ids: Int64[ndarray, " E"]
    llm_ids: Int64[ndarray, " T"]
    labels: Int64[ndarray, " T"]
    answers: tuple[tuple[int, int], ...]


def encode_conversation(
    turns: Sequence[str],
    tiles_per_image: Sequence[int],
    *,
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
) -> Conversation:
    """The ids of a conversation about pictures.

    Args:
        turns: question, answer, question, ...; after a last question without an answer the assistant's turn is left
            open, for generation. If there is one picture and no question holds an `<image>`, the first begins with one.
        tiles_per_image: tiles of each picture, thumbnails included, in the order of the marks.
        tokenizer: the model's tokenizer.
        prompt_format: the model's prompt format.

    Raises:
        InputError: if there are no turns, more marks than pictures or the reverse, or a mark in an answer.
    """
    marks = IMAGE_START + IMAGE_CONTEXT + IMAGE_END
    questions = [
        question.replace(IMAGE_MARK, marks) for question in marked_questions(turns, len(tiles_per_image), IMAGE_TOKENS)
    ]
    pieces = [written_turn("system", prompt_format.system)]
    for i, turn in enumerate(turns):
        pieces.append(written_turn("assistant", turn) if i % 2 else written_turn("user", questions[i // 2]))
    ids = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    answers = []
    header = tokenizer.encode(turn_header("assistant"))
    for i, piece in enumerate(pieces):
        piece_ids = tokenizer.encode(piece)
        if i and i % 2 == 0:
            answers.append((len(ids) + common_prefix(header, piece_ids), len(ids) + len(piece_ids)))
        ids += piece_ids
    if len(turns) % 2:
        ids += header

    # the tokenizer of a text-only model has no image tokens
    context_id = tokenizer.id_of(IMAGE_CONTEXT) if tiles_per_image else None
    return with_image_tokens(ids, answers, context_id, tiles_per_image, prompt_format)


def with_image_tokens(
    ids: Sequence[int],
    answers: Sequence[tuple[int, int]],
    context_id: int | None,
    tiles_per_image: Sequence[int],
    prompt_format: PromptFormat,
) -> Conversation:
    """A conversation with as many image tokens as its pictures have.

    Args:
        ids: of the conversation, with one image token a picture.
        answers: start and stop of each answer among them.
        context_id: the image token; None where there are no pictures.
        tiles_per_image: tiles of each picture.
        prompt_format: of the model.
    """
    compact = np.array(ids, dtype=np.int64)
    is_context = np.zeros(len(ids), dtype=bool) if context_id is None else compact == context_id
    tiles = np.array(tiles_per_image, dtype=np.int64)
    llm_repeats = np.ones_like(compact)
    llm_repeats[is_context] = tiles * prompt_format.tokens_per_tile
    llm_ids = np.repeat(compact, llm_repeats)
    if not prompt_format.reads_every_patch:
        embedding_ids = llm_ids
    else:
        embedding_repeats = np.ones_like(compact)
        embedding_repeats[is_context] = tiles * prompt_format.patches_per_tile
        embedding_ids = np.repeat(compact, embedding_repeats)
    starts = np.concatenate(([0], np.cumsum(llm_repeats)))
    spans = tuple((int(starts[start]), int(starts[stop])) for start, stop in answers)
    labels = np.full_like(llm_ids, IGNORED)
    for start, stop in spans:
        labels[start:stop] = llm_ids[start:stop]
    return Conversation(embedding_ids, llm_ids, labels, spans)


def marked_questions(turns: Sequence[str], num_images: int, image_tokens: Sequence[str]) -> list[str]:
    """The questions, with a mark for each picture.

    Args:
        turns: question, answer, question, ...; a single picture needs no mark.
        num_images: of the conversation.
        image_tokens: of the model, which no turn may hold.

    Raises:
        InputError: if there are no turns, more marks than pictures or the reverse, a mark in an answer, or an image
            token.
    """
    if not turns:
        raise InputError("turns is empty but must begin with a question; give one")
    for turn in turns:
        if any(token in turn for token in image_tokens):
            raise InputError(f"turns holds an image token in {turn[:60]!r}; write {IMAGE_MARK} instead")
    for answer in turns[1::2]:
        if IMAGE_MARK in answer:
            raise InputError(f"the answer {answer[:60]!r} holds {IMAGE_MARK}, which only a question can; remove it")
    questions = list(turns[::2])
    num_marks = sum(question.count(IMAGE_MARK) for question in questions)
    if num_images == 1 and not num_marks:
        questions[0] = f"{IMAGE_MARK}\n{questions[0]}"
        num_marks = 1
    if num_marks > num_images:
        raise BadSample(
            f"{num_marks} {IMAGE_MARK} marks but {num_images} images; remove marks or give more images",
            Reason.too_many_marks,
        )
    if num_marks < num_images:
        raise BadSample(
            f"{num_images} images but {num_marks} {IMAGE_MARK} marks; write a mark where each image belongs",
            Reason.too_few_marks,
        )
    return questions


def turn_header(role: str) -> str:
    """How the turn of `system`, `user` or `assistant` begins."""
    return f"{TURN_START}{role}\n"


def written_turn(role: str, text: str) -> str:
    """A whole turn."""
    return f"{turn_header(role)}{text}{TURN_END}"


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning: a token that joins header and answer belongs to the answer."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return min(len(left), len(right))
