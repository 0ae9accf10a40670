"""What a training says of itself beside its progress bar."""

import re

import torch

from lab.experiments.distill.standing import Standing


def test_the_words_hold_what_is_known() -> None:
    standing = Standing(torch.device("cpu"))
    first = standing.of({"kind": "validation", "step": 0, "loss": 2.5}, 0)
    assert re.fullmatch(r"validation 2.5, \d+\.\d GB", first)
    words = standing.of(
        {
            "kind": "train",
            "step": 3,
            "metrics": {"loss": 0.01234, "tokens": 6000},
            "learning_rate": 5e-4,
            "gradient_norm": 1.0,
            "seconds": 0.5,
        },
        17,
    )
    expected = r"loss 0\.0123, learning rate 0\.0005, 12,000 tokens/s, validation 2\.5, 17 samples left out, \d+\.\d GB"
    assert re.fullmatch(expected, words)
