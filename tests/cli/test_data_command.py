"""`lab data check` finds what was planted, in every form of output, and says by its exit code what a run would do."""

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.cli.main import app
from lab.experiments.distill.check_data import check_conversations
from lab.experiments.distill.teacher import SHIPPED_FOLDER
from reference.bad_corpus import write_corpus


def test_everything_that_was_planted_is_listed(tmp_path: Path) -> None:
    path, planted = write_corpus(tmp_path, num_samples=60, num_of_each=2)
    words = ["data", "check", str(path), "--teacher", str(SHIPPED_FOLDER)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {fault["line"]: fault["reason"] for fault in found["faults"]} == planted
    assert found["counts"] == Counter(planted.values())
    assert (found["samples"], found["usable"]) == (60, 44)
    # the two that are too long can be read
    assert found["share_above_max_length"] == 2 / 46
    assert found["tokens"]["most"] > found["max_length"] == 512 > found["tokens"]["median"] > 10
    assert found["tiles"] == {"total": 46, "least": 1, "median": 1, "90 %": 1, "99 %": 1, "most": 1}
    lines = CliRunner().invoke(app, words).stdout.splitlines()
    assert "60 samples, 44 usable: " in lines[16]
    for line, reason in planted.items():
        assert any(text.startswith(f"{path}:{line}: {reason}: ") for text in lines)
    assert lines[-1] == "above max_length=512: 4.35 %"


def test_without_a_teacher_everything_but_lengths_is_checked(tmp_path: Path) -> None:
    path, planted = write_corpus(tmp_path, num_samples=20, num_of_each=1)
    found = check_conversations(path)
    assert {fault.place.number: fault.reason.value for fault in found.faults} == {
        line: reason for line, reason in planted.items() if reason != "too long"
    }
    assert (found.num_samples, found.tokens, found.max_length) == (20, [], None)


def test_a_teacher_is_named_as_for_other_commands(tmp_path: Path) -> None:
    path, _ = write_corpus(tmp_path, num_samples=20, num_of_each=1)
    by_folder = check_conversations(path, teacher=str(SHIPPED_FOLDER))
    assert check_conversations(path, teacher="shipped") == by_folder


def test_of_a_run_its_own_prompt_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = write_corpus(tmp_path, num_samples=20, num_of_each=1)
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    short = ["stage_1.steps=1", "stage_1.batch_size=1", "evaluation.num_batches=1", "evaluation.batch_size=1"]
    prompt = ["prompt.max_length=300", "prompt.system=Which colour"]
    done = CliRunner().invoke(app, ["distill", "stage=1", *short, *prompt, "figures=[]", "teacher.path=null"])
    assert done.exit_code == 0, done.output
    (run,) = (tmp_path / "outputs" / "distill" / "runs").iterdir()
    by_shipped, by_run = (check_conversations(path, teacher=name) for name in ("shipped", str(run)))
    assert (by_shipped.max_length, by_run.max_length) == (512, 300)
    # the run's system message stands before every sample
    assert min(by_run.tokens) > min(by_shipped.tokens)


def test_a_list_of_data_sets_is_read_once_whatever_it_repeats(tmp_path: Path) -> None:
    write_corpus(tmp_path, num_samples=20, num_of_each=1)
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"annotation": "corpus.jsonl", "repeat_time": 2.5}}))
    assert check_conversations(tmp_path / "meta.json").num_samples == 20


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        ("{\n" * 30, (), "nearly no sample can be used"),
        ("", (), "holds no sample; give conversations"),
        ("{}", ("--max-length", "5"), "name it with --teacher"),
        ("{}", ("--teacher", "gone"), "gone"),
    ],
)
def test_files_that_no_run_would_take_end_with_code_2(
    content: str, more: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    (tmp_path / "chats.jsonl").write_text(content)
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "chats.jsonl"), *more])
    assert done.exit_code == 2
    assert says in done.output
