"""Models that read text only go through the same stages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.core.hydra_schema import to_typed
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.families import build_random
from lab.core.models.llama.config import LlamaConfig
from lab.core.runs.record import Run
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.data import Data
from lab.experiments.distill.pipeline import work_on_students
from lab.experiments.distill.report import summary_table, verdict
from lab.experiments.distill.run_context import RunContext
from lab.experiments.distill.table import table_rows
from lab.experiments.distill.tasks.picture_questions import picture_questions_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def bench(runner: Any, tmp_path: Path) -> RunContext:
    """A decoder of two layers, and conversations in the words of the task that ships."""
    tokenizer = picture_questions_tokenizer("")
    words = ["garment", "digit", "even", "odd", "same", "different"]
    file = tmp_path / "conversations.jsonl"
    with file.open("w") as lines:
        for number in range(40):
            turns = [f"What is {words[number % 6]} and {words[number // 6 % 6]}?", words[(number + 1) % 6]]
            lines.write(json.dumps({"conversations": [{"value": turn} for turn in turns]}) + "\n")
    named = [f"data.conversations.path={file}", f"data.conversations.image_folder={tmp_path}"]
    share = "data.conversations.held_out_share=0.3"
    runner.arguments[:] = [word for word in runner.arguments if "picture_questions" not in word]
    config = to_typed(runner.composed("stage=all", "data=conversations", *named, share), DistillConfig)
    architecture = LlamaConfig(
        num_layers=2,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=len(tokenizer),
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=1e4, max_length=256),
    )
    generator = torch.Generator().manual_seed(0)
    teacher = build_random(architecture, device=CPU, dtype=torch.float32, generator=generator, std=0.25)
    data = Data(config.data, config.prompt, architecture, tokenizer, seed=0)
    return RunContext(config, teacher.requires_grad_(False), data, tokenizer, CPU)


def test_an_evaluation_reads_each_held_out_sample_once(bench: RunContext, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = bench.data.held_out(16, batch_size=4)
    first, again = ([batch.llm_ids for batch in held_out] for _ in range(2))
    assert len(first) <= len(held_out) < 16
    assert [len(ids) for ids in first[:-1]] == [4] * (len(first) - 1)
    assert all(ours.equal(theirs) for ours, theirs in zip(first, again, strict=True))
    questions = [tuple(row[row != 0].tolist()) for ids in first for row in ids]
    assert len(set(questions)) == len(questions)
    number = len(questions) + sum(len(batch.left_out) for batch in held_out)
    bench.data.say_few_held_out(128)
    bench.data.say_few_held_out(128)
    assert capsys.readouterr().err.count(f"{number} samples are held out, fewer than the 128") == 1
    bench.data.say_few_held_out(number)
    assert not capsys.readouterr().err


def test_a_text_model_goes_through_all_stages(bench: RunContext, tmp_path: Path) -> None:
    with Run(tmp_path / "run", {}, [], {}, b"") as record:
        work_on_students(record, bench, {})
        table = table_rows(record.rows, bench.config)
    results = [row for row in table if row["kind"] == "result"]
    assert [row["model"] for row in results] == ["teacher", "teacher, window 32 + 4", *["student"] * 4]
    errors = [row["relative_error"] for row in results if row["model"] == "student"]
    assert errors[2] < errors[1] < errors[0]
    losses = [row["loss"] for row in table if row["kind"] == "validation" and row["stage"] == 3]
    assert losses[-1] < losses[0]
    header, body = summary_table(table)
    assert {len(row) for row in body} == {len(header)}
    assert verdict(table)[0].startswith("the teacher answers")
