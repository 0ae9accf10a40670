"""The whole job on small models: rows, table, predictions, resumed runs, and what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.core.benchmarks.file import BenchmarkFile
from lab.core.benchmarks.spec import benchmarks
from lab.core.data.prompt_format import PromptFormat
from lab.core.data.tiling import cut_tiles
from lab.core.errors import ConfigError, LabError, RunError
from lab.core.models.generation import SamplingConfig
from lab.core.runs.parquet import read_table
from lab.experiments.distill.baselines import windows_of_equal_memory
from lab.experiments.distill.generation.command import Request, answer
from lab.experiments.distill.load import open_model
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.tasks.picture_questions import (
    PictureQuestions,
    PictureQuestionsConfig,
    picture_questions_tokenizer,
)
from lab.experiments.distill.tasks.scenes import chance_by_kind
from lab.experiments.eval import benchmark_task
from lab.experiments.eval.answering import Respondent, compared, followed_by
from lab.experiments.eval.recorded import STUDY
from lab.experiments.eval.seeds import students_t
from lab.experiments.eval.shipped_questions import ShippedQuestions
from lab.experiments.eval.words import overrides_of
from reference.toy_evaluation import distilled_from

Evaluated = Callable[..., Path]
CPU = torch.device("cpu")


def rows(run: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if value is not None} for row in read_table(run).to_pylist()]


def answers(run: Path) -> list[dict[str, object]]:
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in recorded if row["kind"] == "answer"]


def test_every_model_answers_every_question_as_lab_generate_does(
    evaluated: Evaluated, questions: Path, teacher: Path
) -> None:
    run = evaluated("run", str(teacher), f"questions:{questions}", f"against={teacher}", "max_new_tokens=4", "limit=3")
    found = answers(run)
    models = [str(teacher), f"{teacher}, images ablated", f"{teacher}, window 32 + 4"]
    assert [row["model"] for row in found] == [model for model in models for _ in range(3)]
    # the same as `lab generate`, question by question
    opened = open_model(str(teacher), StudentSelector(), device=CPU, precision=None)
    task = BenchmarkFile(questions, benchmarks()["questions"])
    for place in range(3):
        question, images = task.with_images(place)
        images[0].save(questions.parent / "one.png")
        request = Request(
            model=str(teacher),
            selector=StudentSelector(),
            prompt=question.question,
            images=[questions.parent / "one.png"],
            is_raw=False,
            system=None,
            max_tiles=6,
            sampling=SamplingConfig(),
            seed=0,
            max_new_tokens=4,
            precision=None,
            device="cpu",
            products="torch",
        )
        assert found[place]["prediction"] == answer(request, len).text.strip()
    # a window that holds the whole prompt changes nothing
    wide = evaluated(
        "wide",
        str(teacher),
        f"questions:{questions}",
        f"against={teacher}",
        "window=999",
        "max_new_tokens=4",
        "limit=3",
    )
    by_window = [row for row in answers(wide) if "window" in str(row["model"])]
    assert [row["prediction"] for row in by_window] == [row["prediction"] for row in found[:3]]
    assert max(abs(float(str(row["kl"]))) for row in by_window) < 1e-6
    assert opened.model.config.vision is not None


@pytest.mark.slow
def test_divergence_is_that_of_the_distributions_over_the_teachers_answer(
    evaluated: Evaluated, questions: Path, teacher: Path, distilled_folder: Path
) -> None:
    few = ("limit=2", "max_new_tokens=3")
    run = evaluated("run", str(distilled_folder), f"questions:{questions}", f"against={teacher}", *few)
    mine = [row for row in answers(run) if row["model"] == str(distilled_folder)]
    theirs = answers(run)[0]
    paths = (distilled_folder, teacher)
    models = [open_model(str(path), StudentSelector(), device=CPU, precision=None) for path in paths]
    student, of_teacher = (Respondent(str(place), opened) for place, opened in enumerate(models))
    file = BenchmarkFile(questions, benchmarks()["questions"])
    question, images = file.with_images(0)
    prompt = of_teacher.prompt(f"<image>\n{question.question}", images, max_tiles=6)
    ids = theirs["answer_ids"]
    assert isinstance(ids, list)
    total = 0.0
    for place in range(len(ids)):
        # one token at a time, from the whole sequence, in float64
        inputs = followed_by(prompt, ids[:place])
        ours, other = (
            who.opened.model(inputs)[0, -1].double()[: len(models[1].tokenizer)].log_softmax(-1)
            for who in (student, of_teacher)
        )
        total += float((other.exp() * (other - ours)).sum())
    assert mine[0]["kl"] == pytest.approx(total, rel=1e-4)
    assert mine[0]["num_compared"] == len(ids)


def test_the_table_has_scores_differences_and_predictions(evaluated: Evaluated, questions: Path, teacher: Path) -> None:
    run = evaluated("run", str(teacher), f"questions:{questions}", f"against={teacher}", "max_new_tokens=4")
    table = rows(run)
    scores = {(row["model"], row["score"]): row for row in table if row["kind"] == "score"}
    hits = [row["hit"] for row in answers(run) if row["model"] == str(teacher)]
    assert scores[str(teacher), "accuracy"]["value"] == pytest.approx(100 * sum(map(float, map(str, hits))) / 8)
    assert scores[str(teacher), "accuracy"]["interval"] == "Wilson"
    assert scores["chance", "accuracy"]["value"] == 0
    assert {"accuracy, count", "accuracy, colour", "KL to the teacher"} <= {str(name) for _, name in scores}
    assert [row["against"] for row in table if row["kind"] == "difference"] == [str(teacher)] * 2
    assert len(STUDY.results(run)) == len(scores)
    files = sorted((run / "predictions").rglob("*_questions.tsv"))
    assert len(files) == 3
    with files[0].open(newline="") as file:
        written = list(csv.DictReader(file, delimiter="\t"))
    assert list(written[0]) == ["index", "question", "answer", "category", "prediction"]
    assert len(written) == 8


@pytest.mark.parametrize(
    "deaths", [(1,), pytest.param((0, 3, 8, 13, 23), marks=pytest.mark.slow)], ids=["once", "five times"]
)
def test_a_run_that_is_ended_at_any_sample_ends_with_the_same_table(
    deaths: tuple[int, ...], evaluated: Evaluated, questions: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 if len(deaths) == 1 else 24
    more = ("limit=2",) if len(deaths) == 1 else (f"against={teacher}",)
    words = (str(teacher), f"questions:{questions}", "max_new_tokens=2", *more)
    whole = evaluated("whole", *words)
    asked: list[tuple[str, int]] = []
    waiting = list(deaths)
    sample = benchmark_task.BenchmarkTask.sample

    def ended(self: object, place: int, respondent: Respondent, *more: object) -> object:
        if waiting and len(asked) == waiting[0]:
            waiting.pop(0)
            raise KeyboardInterrupt
        asked.append((respondent.label, place))
        return sample(self, place, respondent, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(benchmark_task.BenchmarkTask, "sample", ended)
    for _ in deaths:
        with pytest.raises(KeyboardInterrupt):
            evaluated("ended", *words)
    run = evaluated("ended", *words)
    assert len(asked) == len(set(asked)) == size
    for name in ("table.parquet", "summary.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    # nothing is done again
    evaluated("ended", *words)
    assert len(asked) == size


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_file(evaluated: Evaluated, questions: Path, teacher: Path) -> None:
    words = (str(teacher), f"questions:{questions}", "max_new_tokens=1", "limit=2")
    evaluated("run", *words)
    questions.write_text(questions.read_text().replace("green", "black"))
    with pytest.raises(RunError, match="has changed since this run began"):
        evaluated("run", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{teacher}", "nothing.tsv"], "nothing.tsv: the name tells no benchmark"),
        (["{teacher}", "POPE.tsv"], "POPE.tsv does not exist"),
        (["{teacher}", "other:{questions}"], "tasks=other:"),
        (["{teacher}", "{questions}"], "the name tells no benchmark; say which one"),
        (["{teacher}", "mme:{questions}"], "has no column 'image_path', which mme needs"),
        (["{teacher}", "gqa:{questions}"], "the word 'Answer' is not among"),
        (["{teacher}@2", "questions:{questions}"], "is not a run: stage, variant and replicate"),
        (["nothing", "questions:{questions}"], "there is no run nothing"),
        (["{teacher}", "text:{text}"], "context=2048: .* was trained on at most 1024 tokens"),
        (["{teacher}", "text:gone.txt"], "gone.txt does not exist"),
        (["{teacher}", "questions:{questions}", "baselines=[none]"], "baselines=none: choose from chance"),
        (["{teacher}", "{teacher}", "questions:{questions}"], "models has .* twice"),
        (["questions:{questions}", "models=[]"], "models=.*: give one or more"),
        (["{teacher}", "questions:{questions}", "baselines=[equal_memory]"], "equal_memory .* add against=TEACHER"),
        (
            ["shipped", "questions:{questions}", "baselines=[equal_memory]", "against={teacher}"],
            "none of shipped is a student of .*; leave it out",
        ),
        (["nothing@3::*", "questions:{questions}"], "there is no run nothing"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    words: list[str], message: str, evaluated: Evaluated, questions: Path, teacher: Path, outputs: Path
) -> None:
    (text := questions.parent / "text.txt").write_text("one two")
    with pytest.raises(LabError, match=message) as caught:
        evaluated("run", *(word.format(teacher=teacher, questions=questions, text=text) for word in words))
    assert "\n" not in str(caught.value)
    assert not outputs.exists()


@pytest.mark.slow
def test_replicates_have_a_mean_and_a_window_with_their_memory(
    evaluated: Evaluated, questions: Path, teacher: Path, tmp_path: Path
) -> None:
    three = ("stage=1", "replicates=3")
    distilled_from(teacher, tmp_path / "student", *three)
    student = tmp_path / "student-run"
    few = ("limit=3", "max_new_tokens=2", "baselines=[equal_memory]")
    run = evaluated("run", f"{student}@1::*", f"questions:{questions}", f"against={teacher}", *few)
    models = [f"{student}@1::{seed}" for seed in range(3)]
    memory = f"{teacher}, memory of {student}@1::*"
    assert list(dict.fromkeys(row["model"] for row in answers(run))) == [str(teacher), memory, *models]
    table = rows(run)
    of = {row["model"]: row for row in table if row["kind"] == "score" and row["score"] == "KL to the teacher"}
    # other random numbers, another student
    assert len({of[model]["value"] for model in models}) == 3
    mean = of[f"{student}@1::*, 3 seeds"]
    values = [float(str(of[model]["value"])) for model in models]
    assert mean["value"] == pytest.approx(np.mean(values))
    assert (mean["low"], mean["high"]) == pytest.approx(students_t(values, 0.95))
    assert mean["interval"] == "Student's t over 3 seeds"
    opened = open_model(f"{student}", StudentSelector(1), device=CPU, precision=None).model
    own = open_model(str(teacher), StudentSelector(), device=CPU, precision=None).model
    (row,) = (row for row in table if row["kind"] == "model" and row["model"] == memory)
    assert row["windows"] == list(windows_of_equal_memory(opened, own, num_sinks=4).values())
    # one student alone has no mean, and the same window
    alone = rows(evaluated("alone", f"{student}@1::1", f"questions:{questions}", f"against={teacher}", *few))
    assert not [row for row in alone if "seeds" in str(row.get("interval"))]
    theirs = [row["prediction"] for row in table if row["kind"] == "answer" and row["model"] == memory]
    label = f"{teacher}, memory of {student}@1::1"
    assert [row["prediction"] for row in alone if row["kind"] == "answer" and row["model"] == label] == theirs


def test_models_and_tasks_are_words_or_overrides_but_not_both(evaluated: Evaluated, questions: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        evaluated("run", "shipped", "models=[shipped]", f"questions:{questions}")


def test_a_path_or_a_task_may_have_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "lr=3").mkdir()
    words = [f"{tmp_path}/lr=3", f"text:{tmp_path}/lr=3", f"against={tmp_path}/lr=4", "limit=2"]
    expected = [f"models=['{words[0]}']", f"tasks=['{words[1]}']", *words[2:]]
    assert overrides_of(words) == expected


def test_compared_scores_are_summed() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(600, 7, generator=generator), torch.randn(600, 7, generator=generator)
    found = compared(ours, theirs)
    log_ours, log_theirs = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    assert found.kl == pytest.approx(float((log_theirs.exp() * (log_theirs - log_ours)).sum()), rel=1e-5)
    assert found.agreeing == int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    assert found.num_compared == 600


def test_questions_of_the_shipped_task_are_those_of_its_held_out_scenes(evaluated: Evaluated, teacher: Path) -> None:
    run = evaluated("run", str(teacher), "picture_questions:3", "max_new_tokens=2")
    found = answers(run)
    assert [row["index"] for row in found] == ["0", "1", "2"]
    scores = {(row["model"], row["score"]): row["value"] for row in rows(run) if row["kind"] == "score"}
    by_kind = chance_by_kind()
    assert scores["chance", "accuracy"] == pytest.approx(100 * sum(by_kind[str(row["category"])] for row in found) / 3)
    source = PictureQuestions(
        PictureQuestionsConfig(),
        split="test",
        seed=0,
        tokenizer=picture_questions_tokenizer(""),
        prompt_format=PromptFormat(image_size=28, patch_size=7),
    )
    for place in range(3):
        _, images = ShippedQuestions(3).with_images(place)
        tiles = [cut_tiles(image, PromptFormat(image_size=28, patch_size=7)) for image in images]
        assert np.array_equal(np.concatenate(tiles), source[place].tiles)
