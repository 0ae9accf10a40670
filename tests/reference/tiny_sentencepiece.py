"""A small sentencepiece vocabulary with bytes for what it does not know, which keeps spaces as they are."""

import io
from collections.abc import Sequence
from typing import Any

import pytest


def sentencepiece_model(text: str, *, vocab_size: int, user_defined_symbols: Sequence[str] = (), **more: int) -> bytes:
    """The contents of a tokenizer.model; `more` are options of training.

    The test is skipped where sentencepiece is not installed.
    """
    sentencepiece: Any = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text] * 20),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=list(user_defined_symbols),
        minloglevel=3,
        **more,
    )
    return model.getvalue()
