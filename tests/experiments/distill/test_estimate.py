"""Estimates of the memory of a step against measured peaks, and what they refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from drawn import one_in
from lab.core import resources
from lab.core.errors import ConfigError
from lab.experiments.distill.config import register
from lab.experiments.distill.job import check

SMALL = (
    *("figures=[]", "threads=1", "loader=inline", "evaluation.num_batches=1", "evaluation.num_validation_batches=1"),
    "evaluation.batch_size=4",
)
# in the second step the moments of the optimizer are there
TEACHER = ("stage=teacher", "teacher.path=null", "stage_teacher.steps=2")
WHOLE = "data.picture_questions.num_lessons=0"
WIDE = (
    *("teacher.path=null", "teacher.hovle.embedding.hidden_size=512", "teacher.hovle.llm.hidden_size=512"),
    *("teacher.hovle.llm.intermediate_size=1024", "teacher.hovle.llm.num_heads=8", "teacher.hovle.llm.num_kv_heads=4"),
    "teacher.hovle.llm.head_dim=64",
)
WIDE_EMBEDDING = (
    *("teacher.hovle.embedding.intermediate_size=1024", "teacher.hovle.embedding.num_heads=4"),
    *("teacher.hovle.embedding.num_kv_heads=2", "teacher.hovle.embedding.head_dim=128"),
    *("teacher.hovle.llm.num_heads=4", "teacher.hovle.llm.num_kv_heads=2", "teacher.hovle.llm.head_dim=128"),
)
SIZES = {
    "stage 1": ("stages=[1]", "stage_1.steps=1", "stage_1.batch_size=512"),
    "stage 3": ("stages=[3]", "stage_3.steps=1", "stage_3.batch_size=128"),
    "stage 2, wide": ("stages=[2]", "stage_2.steps=1", "stage_2.batch_size=64", *WIDE),
    "stage 3, wide": ("stages=[3]", "stage_3.steps=1", "stage_3.batch_size=32", *WIDE),
    "stage 3, computed again": (
        *("stages=[3]", "stage_3.steps=1", "stage_3.batch_size=128", "parallel.activation_checkpointing=true"),
    ),
    "teacher": (*TEACHER, "stage_teacher.batch_size=32", WHOLE),
    "teacher, lessons": (*TEACHER, "stage_teacher.batch_size=512"),
    "teacher, wide": (*TEACHER, "stage_teacher.batch_size=16", WHOLE, *WIDE, *WIDE_EMBEDDING),
    "teacher, named digits": (
        *(*TEACHER, "recipe=named_digits", "teacher=named_digits", "data=named_digits"),
        "stage_teacher.batch_size=256",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(4, list(SIZES), of="estimates of distillations"))
def test_memory_is_estimated_to_thirty_percent_below_and_fifty_above(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("peak_of_step.py")), *SMALL, "stage=all", *SIZES[name]],
        capture_output=True,
        text=True,
        check=True,
    )
    estimated, measured = json.loads(done.stdout.splitlines()[-1])
    print(f"{estimated / 1e6:.0f} MB estimated, {measured / 1e6:.0f} MB measured")
    assert 0.7 * measured < estimated < 1.5 * measured


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("stage_1.batch_size=500000",),
            ("stage_1.batch_size=500000", "GB of memory, 2 GB are free", "accumulation"),
        ),
        (("evaluation.batch_size=1000000",), ("evaluation.batch_size=1000000", "lower evaluation.batch_size")),
        (
            ("teacher.path=null", "teacher.hovle.llm.intermediate_size=100000000"),
            ("a teacher of 115,", "in float32", "choose a smaller teacher"),
        ),
    ],
)
def test_a_run_without_room_is_refused_with_its_estimate(
    overrides: tuple[str, ...], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 2 * 10**9)
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=["stage=1", *overrides])
    with pytest.raises(ConfigError) as refusal:
        check(config, Path("nowhere"))
    for word in words:
        assert word in str(refusal.value)


def test_a_disk_without_room_for_checkpoints_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_disk", lambda folder: 1000)
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=["stage=1"])
    with pytest.raises(ConfigError, match=r"checkpoints of a teacher .* on the disk of nowhere, .* free some space"):
        check(config, Path("nowhere"))
