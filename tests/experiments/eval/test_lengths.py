"""What is longer than a model reads, and answers whose text does not give their tokens back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import InputError
from lab.experiments.distill.load import find_model
from lab.experiments.distill.selector import StudentSelector
from reference.text_checkpoint import write_text_checkpoint
from reference.toy_evaluation import write_tsv

Evaluated = Callable[..., Path]
NUM_NEW = 100


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random models that know every byte: one reads 256 tokens, the other, with the same weights, 128."""
    folder = tmp_path_factory.mktemp("models")
    names = {"longer": 256, "shorter": 128}
    longer, shorter = (write_text_checkpoint(folder / name, max_length=size) for name, size in names.items())
    return longer, shorter


def samples(run: Path, model: Path) -> list[dict[str, Any]]:
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in recorded if "place" in row and row["model"] == str(model)]


def sentences(run: Path) -> str:
    return (run / "summary.json").read_text()


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A short question, one that only the longer model can read with an answer, and one that only it can read."""
    texts = ("What is it", "x" * 100, "x" * 200)
    rows = [{"index": str(place), "question": text, "answer": "a"} for place, text in enumerate(texts)]
    return write_tsv(tmp_path / "asked.tsv", rows)


def test_a_teachers_answer_is_compared_by_its_tokens_and_left_out_where_a_model_cannot_read_it(
    evaluated: Evaluated, asked: Path, checkpoints: tuple[Path, Path]
) -> None:
    longer, shorter = checkpoints
    words = (str(shorter), f"questions:{asked}", f"against={longer}", "baselines=[image_ablated]")
    run = evaluated("run", *words, f"max_new_tokens={NUM_NEW}")
    theirs, mine = samples(run, longer), samples(run, shorter)
    tokenizer = find_model(str(longer), StudentSelector()).tokenizer
    # random bytes are no text
    assert any(tokenizer.encode(row["prediction"]) != row["answer_ids"] for row in theirs)
    assert [len(row["answer_ids"]) for row in theirs] == [row["num_new_tokens"] for row in theirs]
    assert mine[0]["num_compared"] == theirs[0]["num_new_tokens"]
    why = "the question with the teacher's answer is longer than the model reads"
    assert [row.get("not_compared") for row in mine] == [None, why, why]
    assert f"{shorter}: 2 questions are not in the KL to the teacher: {why}" in sentences(run)
    # with the same length, all are compared
    ablated = Path(f"{longer}, images ablated")
    assert [row["num_compared"] for row in samples(run, ablated)] == [row["num_new_tokens"] for row in theirs]


def test_a_choice_that_is_longer_than_the_model_reads_counts_as_wrong(
    evaluated: Evaluated, tmp_path: Path, checkpoints: tuple[Path, Path]
) -> None:
    shorter = checkpoints[1]
    # of the second, only the longest option does not fit
    rows = [("What", "dog"), ("What", "y" * 150), ("x" * 200, "dog")]
    path = write_tsv(
        tmp_path / "choices.tsv",
        [{"index": str(i), "question": text, "answer": "A", "A": "a", "B": b} for i, (text, b) in enumerate(rows)],
    )
    run = evaluated("run", str(shorter), f"likelihood:{path}")
    assert [len(row["log_likelihoods"]) for row in samples(run, shorter)] == [2, 0, 0]
    assert [row["hit"] + row["hit_per_byte"] for row in samples(run, shorter)][1:] == [0, 0]
    assert "2 questions with an option were longer than the model reads, and count as wrong" in sentences(run)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (" ", "choices.tsv: row 1, with index 7, has only spaces in option B"),
        # this tokenizer leaves it out
        ("\N{ZERO WIDTH SPACE}", r"question 7 for .*: option B.*"),
    ],
)
def test_an_option_without_a_token_is_named(
    option: str, says: str, evaluated: Evaluated, tmp_path: Path, teacher: Path
) -> None:
    row = {"index": "7", "question": "How many pictures show a bag?", "answer": "A", "A": "two", "B": option}
    path = write_tsv(tmp_path / "choices.tsv", [row])
    with pytest.raises(InputError, match=says):
        evaluated("run", str(teacher), f"likelihood:{path}")
