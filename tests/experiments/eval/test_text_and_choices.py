"""Texts and multiple choice by likelihood: every token once, with its context, and numbers from a plain pass."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from lab.core.models.decoder import Inputs
from lab.core.runs.parquet import read_table
from lab.experiments.distill.load import open_model
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.text_task import TextTask, bytes_of_first
from reference.characters import Characters
from reference.toy_evaluation import write_tsv

Evaluated = Callable[..., Path]
CPU = torch.device("cpu")
TEXT = "How many pictures show a bag? zero, one, two. Which colour frames the boot? red and green. " * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    (place / "a.txt").write_text(TEXT)
    (place / "b.md").write_text("What is framed in red? a bag.")
    return place


def scores(run: Path) -> dict[tuple[str, str], float]:
    rows = read_table(run).to_pylist()
    return {(row["model"], row["score"]): row["value"] for row in rows if row["kind"] == "score"}


def test_cross_entropy_is_that_of_each_token_with_its_window(evaluated: Evaluated, folder: Path, teacher: Path) -> None:
    words = (str(teacher), f"text:{folder}", f"against={teacher}", "context=16", "stride=5")
    found = scores(evaluated("run", *words, "baselines=[windowed]", "window=4"))
    opened = open_model(str(teacher), StudentSelector(), device=CPU, precision=None)
    total, number, num_bytes = 0.0, 0, 0
    for text in (TEXT, "What is framed in red? a bag."):
        ids = opened.tokenizer.encode(text)
        # nothing stands before the first word, which is not predicted
        num_bytes += len(text.encode()) - len(text.split(maxsplit=1)[0])
        for place in range(1, len(ids)):
            # the first window predicts tokens 1 to 15, each later one the five behind those before
            stop = 16 if place < 16 else min(len(ids), 16 + 5 * ((place - 16) // 5 + 1))
            start = max(0, stop - 16)
            logits = opened.model(Inputs(tokens=torch.tensor([ids[start:place]])))[0, -1]
            known = logits.double()[: len(opened.tokenizer)].log_softmax(-1)
            total -= float(known[ids[place]])
            number += 1
    label = str(teacher)
    assert found[label, "cross-entropy"] == pytest.approx(total / number, rel=1e-5)
    assert found[label, "perplexity"] == pytest.approx(math.exp(total / number), rel=1e-5)
    assert found[label, "bits per byte"] == pytest.approx(total / math.log(2) / num_bytes, rel=1e-5)
    assert found[f"{teacher}, window 4 + 4", "KL to the teacher"] > 1e-7


def test_every_token_of_a_document_is_predicted_once(folder: Path, teacher: Path) -> None:
    opened = open_model(str(teacher), StudentSelector(), device=CPU, precision=None)
    for context, stride in ((2, 1), (7, 3), (16, 15), (500, 1)):
        config = EvalConfig(models=["m"], tasks=["t"], context=context, stride=stride)
        ids_of, pieces = TextTask(f"text:{folder}", str(folder), config).cut(opened.tokenizer)
        for document, ids in enumerate(ids_of):
            mine = [piece for piece in pieces if piece.document == document]
            predicted = [place for piece in mine for place in range(piece.stop - piece.num_predicted, piece.stop)]
            assert predicted == list(range(1, len(ids)))
            assert all(piece.stop - piece.start <= context for piece in mine)
            assert all(piece.stop - piece.num_predicted - piece.start >= context - stride for piece in mine[1:])


def test_options_are_chosen_by_their_likelihood(evaluated: Evaluated, tmp_path: Path, teacher: Path) -> None:
    options = [("red", "blue and green", "black"), ("one", "two", "three")]
    rows = [
        {"index": str(place), "question": "Which colour frames the bag?", "answer": "B"}
        | dict(zip("ABC", of, strict=True))
        for place, of in enumerate(options)
    ]
    path = write_tsv(tmp_path / "choices.tsv", rows)
    run = evaluated("run", str(teacher), f"likelihood:{path}")
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in recorded if row["kind"] == "choice"]
    opened = open_model(str(teacher), StudentSelector(), device=CPU, precision=None)
    for row, of in zip(found, options, strict=True):
        prompt = opened.read("Which colour frames the bag?", [], is_raw=False).tokens[0].tolist()
        for value, option in zip(row["log_likelihoods"], of, strict=True):
            ids, total = list(prompt), 0.0
            for token in opened.tokenizer.encode(option):
                logits = opened.model(Inputs(tokens=torch.tensor([ids])))[0, -1, : len(opened.tokenizer)]
                total += float(logits.double().log_softmax(-1)[token])
                ids.append(token)
            assert value == pytest.approx(total, rel=1e-5)
        values = dict(zip("ABC", row["log_likelihoods"], strict=True))
        per_byte = {letter: values[letter] / len(text) for letter, text in zip("ABC", of, strict=True)}
        assert row["hit"] == (max(values, key=values.__getitem__) == "B")
        assert row["hit_per_byte"] == (max(per_byte, key=per_byte.__getitem__) == "B")
    names = scores(run)
    assert names["chance", "accuracy"] == pytest.approx(100 / 3)
    assert (str(teacher), "accuracy per byte") in names


class Bytes(Characters):
    """A token for each byte; those of a part of a character have no text of their own."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


class Bare(Characters):
    """One without a token for a space in front, as in SentencePiece."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.lstrip())


@pytest.mark.parametrize(
    ("tokenizer", "text", "size"),
    [
        (Characters(), "ab", 1),
        (Characters(), "\N{EURO SIGN}b", 3),
        (Characters(), " b", 1),
        (Bytes(), "ab", 1),
        (Bytes(), "\N{EURO SIGN}b", 1),
        (Bytes(), "\N{GRINNING FACE}", 1),
        (Bare(), "  ab", 3),
    ],
)
def test_the_bytes_of_a_first_token_are_those_that_are_not_predicted(
    tokenizer: Characters, text: str, size: int
) -> None:
    assert bytes_of_first(text, tokenizer.encode(text), tokenizer) == size
