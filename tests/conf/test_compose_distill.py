"""Every shipped configuration of the distillation composes, and every experiment describes students that exist."""

import re
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lab.core.hydra_schema import to_typed
from lab.experiments.distill.config import DistillConfig, Reduction, register
from lab.experiments.distill.stage_graph import nodes, students

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment" / "distill").glob("*.yaml"))
TABLES = [name for name in EXPERIMENTS if name[:1] == "t"]


@cache
def composed(*overrides: str) -> DistillConfig:
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        return to_typed(compose("distill", overrides=list(overrides)), DistillConfig)


def test_there_is_an_experiment_for_each_table() -> None:
    names = ["t3_matched_steps", "t3_stages", "t4_initialisation", "t5_hybrid_count", "t6_placement"]
    assert names == TABLES


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_an_experiment_is_one_command_that_ends_in_one_figure(name: str) -> None:
    config = composed(f"experiment=distill/{name}")
    assert len(config.figures) == 1
    assert config.title.startswith(f"T{name[1]}")
    found = students(config)
    assert len(found) == len(config.variants) * config.replicates
    last = [student.path[-1].key for student in found]
    assert len(set(last)) == len(last), "no two students end alike"


def test_an_experiment_says_what_to_expect_how_long_it_takes_and_how_to_run_it() -> None:
    missing = []
    for name in EXPERIMENTS:
        text = (CONF / "experiment" / "distill" / f"{name}.yaml").read_text()
        needed = ("Expected", "on (one core|two cores)", f"lab distill experiment=distill/{name}")
        missing += [f"{name}: {words}" for words in needed if not re.search(words, text)]
    assert missing == []


def test_matched_students_take_the_same_number_of_steps() -> None:
    totals = set()
    for student in students(composed("experiment=distill/t3_matched_steps")):
        totals.add(sum(node.recipe.steps for node in student.path if node.recipe is not None))
    assert totals == {600}


def test_ways_to_leave_stages_out_share_what_they_have_in_common() -> None:
    config = composed("experiment=distill/t3_stages", "replicates=1")
    assert sum(node.recipe is not None for node in nodes(students(config))) == 7


def test_every_stage_is_a_word_that_can_be_typed() -> None:
    stages = ["teacher", "1", "2", "3", "all"]
    assert [composed(f"stage={stage}").stage for stage in stages] == stages


@pytest.mark.slow
@pytest.mark.parametrize("group", ["teacher", "student", "student/mixer", "data", "recipe"])
def test_every_option_composes(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        # a file of conversations has to be named, and so has a teacher that does not ship
        named = [f"{group}.{key}=a.file" for key in OmegaConf.missing_keys(OmegaConf.load(path))]
        assert composed("stage=all", f"{group}={path.stem}", *named)


def test_a_pretrained_language_model_goes_through_all_stages_on_text() -> None:
    config = composed("experiment=distill/smollm2", "teacher.path=a.gguf")
    assert config.data.text is not None
    assert config.data.picture_questions is None
    assert config.teacher.hovle is None
    (student,) = students(config)
    assert [node.stage for node in student.path] == [0, 1, 2, 3]


def test_the_papers_recipe_is_the_papers() -> None:
    config = composed("stage=all", "recipe=paper")
    recipes = [config.stage_1, config.stage_2, config.stage_3]
    assert [recipe.steps for recipe in recipes] == [20_000] * 3
    assert [recipe.learning_rate for recipe in recipes] == [1e-3, 5e-4, 5e-5]
    assert [recipe.batch_size * recipe.accumulation for recipe in recipes] == [128, 128, 64]
    for recipe in recipes:
        assert (recipe.beta1, recipe.beta2, recipe.weight_decay, recipe.gradient_clip) == (0.9, 0.999, 0.05, 5.0)
        assert (recipe.warmup, recipe.decay, recipe.autocast, recipe.factor) == (0.1, 0.1, True, 1000.0)
    assert (config.stage_3.reduction, config.stage_3.temperature) == (Reduction.sequence, 1.0)
    assert not config.stage_3.train_decay
