"""`lab data check` finds what was planted, in every form of output, and says by its exit code what a run would do."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lab.cli.main import app
from lab.core.data.sample import is_held_out
from lab.experiments.distill.check_data import check_conversations
from lab.experiments.distill.teacher import SHIPPED_FOLDER
from reference.bad_corpus import write_corpus


def test_everything_that_was_planted_is_listed(tmp_path: Path) -> None:
    path, planted = write_corpus(tmp_path, num_samples=60, num_of_each=2)
    words = ["data", "check", str(path), "--teacher", str(SHIPPED_FOLDER), "--held-out-share", "0.1"]
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
    prompt = ["prompt.max_length=300", "prompt.max_tiles=3", "prompt.system=Which colour"]
    done = CliRunner().invoke(app, ["distill", "stage=1", *short, *prompt, "figures=[]", "teacher.path=null"])
    assert done.exit_code == 0, done.output
    (run,) = (tmp_path / "outputs" / "distill" / "runs").iterdir()
    by_shipped, by_run = (check_conversations(path, teacher=name) for name in ("shipped", str(run)))
    assert (by_shipped.max_length, by_run.max_length) == (512, 300)
    # the run's system message stands before every sample
    assert min(by_run.tokens) > min(by_shipped.tokens)
    # all pictures are this file
    Image.new("RGB", (28 * 14, 28)).save(tmp_path / "0.png")
    tiles = [max(check_conversations(path, teacher=name).tiles) for name in ("shipped", str(run))]
    assert tiles == [13, 4]


def test_a_list_of_data_sets_is_read_once_whatever_it_repeats(tmp_path: Path) -> None:
    write_corpus(tmp_path, num_samples=20, num_of_each=1)
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"annotation": "corpus.jsonl", "repeat_time": 2.5}}))
    assert check_conversations(tmp_path / "meta.json").num_samples == 20


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        ("{\n" * 30, (), "30 of 30 samples looked at cannot be used"),
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


def test_a_run_would_refuse_what_the_check_refuses_for_a_split(tmp_path: Path) -> None:
    path, _ = write_corpus(tmp_path, num_samples=20, num_of_each=0)
    found = check_conversations(path)
    assert (found.refusal, found.faults) == (f"{path} holds no test sample; raise held_out_share=0.01", [])
    assert check_conversations(path, held_out_share=0.3).refusal is None
    # the only one that is held out
    lost = next(name for name in map("gone{}.png".format, range(10**4)) if is_held_out(name.encode(), 0.01))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps({**json.loads(lines[0]), "image": lost})]))
    by_check = check_conversations(path, teacher="shipped").refusal
    assert by_check is not None
    assert by_check.startswith("none of the held-out samples looked at (1) can be used; the first: ")
    assert by_check.endswith("; mend one of them, or hold out more with a larger held_out_share")
    words = ["data=conversations", f"data.conversations.path={path}", "stage=1", f"teacher.path={SHIPPED_FOLDER}"]
    done = CliRunner().invoke(app, ["distill", *words])
    assert (done.exit_code, done.output) == (2, f"lab: {by_check}\n")


def test_bad_samples_of_one_split_count_with_those_of_the_other(tmp_path: Path) -> None:
    path, _ = write_corpus(tmp_path, num_samples=60, num_of_each=0)
    lines = path.read_text().splitlines()
    held_out = [line for line in lines if is_held_out(json.loads(line)["image"].encode(), 0.3)]
    # eleven bad ones, of which a tenth is usable only with the training data
    bad = [json.dumps({**json.loads(line), "conversations": []}) for line in held_out[1:]]
    path.write_text("\n".join([line for line in lines if line not in held_out] + held_out[:1] + bad))
    assert len(bad) > 9
    assert check_conversations(path, teacher="shipped", held_out_share=0.3).refusal is None


def test_tiles_are_cut_as_in_a_run(tmp_path: Path) -> None:
    path, _ = write_corpus(tmp_path, num_samples=1, num_of_each=0)
    Image.new("RGB", (28 * 14, 28)).save(tmp_path / "0.png")
    assert [check_conversations(path, teacher="shipped", max_tiles=number).tiles for number in (None, 2)] == [[13], [3]]
