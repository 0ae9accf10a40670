"""A teacher, a linear and a hybrid student on easy-VQA and a file of each benchmark's layout, end to end."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.core.benchmarks.placing import place_images
from lab.core.benchmarks.question import Question
from lab.core.benchmarks.rows import Rows
from lab.core.benchmarks.spec import benchmark_of_file
from lab.core.data.tokenizers import SPECIAL_TOKENS, WordTokenizer, split_words
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig
from lab.core.models.hovle.config import HovleConfig
from lab.core.runs.parquet import read_table
from lab.experiments.distill.tasks.easy_vqa import easy_vqa_tokenizer
from lab.experiments.distill.tasks.picture_questions import picture_questions_tokenizer
from lab.experiments.distill.teacher import new_teacher, write_teacher
from lab.experiments.eval import benchmark_task
from reference.easy_vqa_package import easy_vqa_package
from reference.toy_evaluation import COLOURS, distilled_from, picture, write_tsv

GOLDEN = Path(__file__).parents[2] / "golden" / "benchmarks"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.tsv"))
NUM_ROWS = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first rows of the recorded answers, with images: their own, another row's, and several."""
    folder = tmp_path_factory.mktemp("files")
    found = []
    for name in [*NAMES, "MMVet"]:
        source = Rows(GOLDEN / f"{'GQA_TestDev_Balanced' if name == 'MMVet' else name}.tsv")
        rows = [dict(row) for _, row in source][:NUM_ROWS]
        for place, row in enumerate(rows):
            del row["prediction"]
            row["image"] = picture(COLOURS[place]) if place != 1 else rows[0]["index"]
        if name.startswith("MMMU"):
            rows[0]["question"] = "Is <image 2> like <image 1>?"
            rows[0]["image"] = repr([picture("red"), picture("blue")])
        found.append(write_tsv(folder / f"{name}.tsv", rows))
    return found


@pytest.fixture(scope="module")
def models(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A teacher that knows the words of all prompts, and students of it."""
    known = (picture_questions_tokenizer(""), easy_vqa_tokenizer(""))
    words = [word for tokenizer in known for word in tokenizer.tokens[len(SPECIAL_TOKENS) :]]
    for path in files:
        for _, row in Rows(path):
            question = Question.of_row(row)
            shown = ["first", "second"] if "<image 2>" in row["question"] else ["only"]
            text, _ = place_images(benchmark_of_file(path.stem).prompt(question), shown)
            words += [word for word in split_words(text) if word not in SPECIAL_TOKENS]
    tokenizer = WordTokenizer([word for word in dict.fromkeys(words) if split_words(word) == [word]])
    decoder = DecoderConfig(
        num_layers=2,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=len(tokenizer),
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=1e4, max_length=1024),
    )
    vision = VisionConfig(
        image_size=28,
        patch_size=7,
        num_channels=3,
        shuffle_factor=2,
        pixel_shuffle=PixelShuffle.pre,
        image_token_id=4,
    )
    folder = tmp_path_factory.mktemp("models")
    model = new_teacher(
        HovleConfig(vision=vision, embedding=decoder, llm=decoder), tokenizer, device=torch.device("cpu"), seed=0
    )
    write_teacher(model, tokenizer, folder / "teacher")
    hybrid = ("stage=all", "stages=[3]", "student=hybrid", "student.hybrid.number=1")
    return [
        folder / "teacher",
        distilled_from(folder / "teacher", folder / "linear", "stage=1"),
        distilled_from(folder / "teacher", folder / "hybrid", *hybrid),
    ]


def test_every_layout_is_answered_by_teacher_linear_and_hybrid_student(
    evaluated: Callable[..., Path],
    files: list[Path],
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", easy_vqa_package(tmp_path))
    tasks = [*map(str, files), "easy_vqa"]
    words = [*map(str, models), *tasks, f"against={models[0]}", "max_new_tokens=3"]
    words.append("baselines=[chance,image_ablated,windowed,equal_memory]")
    run = evaluated("run", *words)
    rows = read_table(run).to_pylist()
    answers = [row for row in rows if row["kind"] == "answer"]
    # teacher, images ablated, window, a window with the memory of each student, both students
    assert len(answers) == 7 * NUM_ROWS * len(tasks)
    quoted = {(row["task"], row["model"]) for row in rows if row["kind"] == "score" and row["is_headline"]}
    scored = [task for task in tasks if "MMVet" not in task]
    assert {(task, str(model)) for task in scored for model in models} <= quoted
    beside = {(row["task"], row["model"]): row["value"] for row in rows if row["kind"] == "published"}
    assert len(beside) == 3 * (len(scored) - 1)
    assert next(value for (task, model), value in beside.items() if "POPE" in task and "linear" in model) == 85.2
    # predictions of all, also of those that are not scored
    assert len(list((run / "predictions").rglob("*.tsv"))) == 7 * len(tasks)
    students = [row for row in answers if row["model"] in (str(models[1]), str(models[2]))]
    compared = [row for row in students if row["kl"] is not None]
    assert len(compared) > NUM_ROWS * len(tasks)
    # up to the rounding of a sum
    assert all(row["num_compared"] > 0 and row["kl"] > -1e-6 for row in compared)
    refuse_other_results_of_an_ended_run(run, evaluated, words, monkeypatch)


def refuse_other_results_of_an_ended_run(
    whole: Path, evaluated: Callable[..., Path], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run, ended at two samples and continued: the same files, and no sample answered twice."""
    asked: list[tuple[str, str, int]] = []
    number = sum(json.loads(line)["kind"] == "answer" for line in (whole / "metrics.jsonl").read_text().splitlines())
    waiting = sorted(random.Random(0).sample(range(number), 2))
    sample = benchmark_task.BenchmarkTask.sample

    def ended(self: Any, place: int, respondent: Any, *more: Any) -> Any:
        if waiting and len(asked) == waiting[0]:
            waiting.pop(0)
            raise KeyboardInterrupt
        asked.append((self.word, respondent.label, place))
        return sample(self, place, respondent, *more)

    monkeypatch.setattr(benchmark_task.BenchmarkTask, "sample", ended)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluated("ended", *words)
    run = evaluated("ended", *words)
    assert len(asked) == len(set(asked)) == number
    names = ["table.parquet", "summary.json", *(str(path.relative_to(whole)) for path in whole.rglob("*.tsv"))]
    assert all((run / name).read_bytes() == (whole / name).read_bytes() for name in names)
