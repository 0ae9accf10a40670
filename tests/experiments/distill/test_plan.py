"""The plan of a run: the counts and sizes of mmMamba as published, from the architecture alone."""

import json

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from lab.core.errors import ConfigError
from lab.core.hydra_schema import to_typed
from lab.experiments.distill.config import DistillConfig, register
from lab.experiments.distill.plan import plans, print_plan

GIGA = 1e9


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        return compose("distill", overrides=["recipe=paper", "teacher=hovle_2p6b", "stage=all", *overrides])


@pytest.mark.parametrize(
    ("student", "counts", "shares"),
    [
        ("linear", (135_664_640, 404_100_096, 404_099_072), (4.95, 14.74, 14.74)),
        ("hybrid", (135_664_640, 404_100_096, 303_074_304), (4.95, 14.74, 11.19)),
    ],
)
def test_the_paper_trains_what_its_table_says(student: str, counts: tuple[int, ...], shares: tuple[float, ...]) -> None:
    settings = to_typed(composed(f"student={student}", "parallel.strategy=fsdp"), DistillConfig)
    architecture = settings.teacher.architecture
    assert architecture is not None
    found = plans(settings, architecture, processes=8, max_length=8192)
    assert tuple(plan.trained for plan in found) == counts
    assert tuple(round(100 * plan.share, 2) for plan in found) == shares
    assert [(plan.steps, plan.samples, plan.batches) for plan in found] == [
        (20_000, 2_560_000, 8),
        (20_000, 2_560_000, 8),
        (20_000, 1_280_000, 8),
    ]


def test_eight_processes_hold_what_the_published_training_held() -> None:
    """Stage 3 with ZeRO-2 on 8 GPUs, from the sizes of the release: weights and gradients in bfloat16."""
    settings = to_typed(composed("parallel.strategy=fsdp"), DistillConfig)
    assert settings.teacher.architecture is not None
    *_, plan = plans(settings, settings.teacher.architecture, processes=8, max_length=8192)
    published = {
        "student": (plan.student_bytes, 5.48),
        "teacher": (plan.teacher_bytes, 5.21),
        "gradients": (plan.gradient_bytes, 0.81),
        "float32 and moments of a process": (plan.trained_a_process, 0.61),
        "logits": (plan.logits_bytes, 4.5),
    }
    for name, (found, expected) in published.items():
        assert found / GIGA == pytest.approx(expected, rel=0.05), name


def test_parts_are_as_many_as_there_are_processes() -> None:
    def held(*overrides: str, processes: int) -> tuple[int, int]:
        settings = to_typed(composed(*overrides), DistillConfig)
        assert settings.teacher.architecture is not None
        *_, plan = plans(settings, settings.teacher.architecture, processes=processes, max_length=8192)
        return plan.frozen_a_process, plan.trained_a_process

    frozen, trained = held(processes=1)
    assert held("parallel.strategy=ddp", processes=4) == (frozen, trained)
    assert held("parallel.strategy=fsdp", processes=4)[1] == trained // 4
    cut = held("parallel.strategy=fsdp", "parallel.frozen=sharded", processes=4)
    assert sum(cut) < 0.26 * (frozen + trained)


def test_a_plan_is_printed_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(composed("stage=3"), 8, as_json=True)
    content = json.loads(capsys.readouterr().out)
    (stage,) = content["stages"]
    assert (content["processes"], content["max_length"], stage["trained"]) == (8, 8192, 404_099_072)
    print_plan(composed("stage=3"), 8, as_json=False)
    printed = capsys.readouterr().out
    assert "404,099,072" in printed
    assert "each of 8 processes" in printed
    with pytest.raises(ConfigError, match=r"stage_3\.accumulation=64 .* 7 processes"):
        print_plan(composed("stage=3"), 7, as_json=False)
    with pytest.raises(ConfigError, match="--plan with stage=teacher"):
        print_plan(composed("stage=teacher"), 1, as_json=False)
