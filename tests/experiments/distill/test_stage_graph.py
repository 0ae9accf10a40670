"""Students share what decides their weights alike, and nothing else."""

from collections.abc import Callable

import pytest

from lab.core.errors import ConfigError
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.stage_graph import Student, nodes, students

Config = Callable[..., DistillConfig]


def stages_of(student: Student) -> list[int]:
    return [node.stage for node in student.path]


def test_a_student_goes_from_its_seed_through_its_stages(small_config: Config) -> None:
    (student,) = students(small_config("stage=all"))
    assert stages_of(student) == [0, 1, 2, 3]
    parents = [node.parent for node in student.path]
    assert parents == [None, *student.path[:-1]]


def test_one_later_stage_goes_on_from_another_run(small_config: Config) -> None:
    assert [stages_of(student) for student in students(small_config("stage=1"))] == [[0, 1]]
    (student,) = students(small_config("stage=2"))
    assert (stages_of(student), student.path[0].parent) == ([2], None)


def test_leaving_stages_out_in_all_ways_takes_seven_trainings(small_config: Config) -> None:
    subsets = [[1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3]]
    variants = ",".join(f"s{index}:{{stages:{subset}}}" for index, subset in enumerate(subsets))
    found = students(small_config("stage=all", f"+variants={{{variants}}}"))
    assert [stages_of(student)[1:] for student in found] == subsets
    trained = [node for node in nodes(found) if node.recipe is not None]
    assert len(trained) == 7
    assert sum(len(student.path) - 1 for student in found) == 12


def test_hybrids_share_the_stages_in_which_they_do_not_differ(small_config: Config) -> None:
    variants = (
        "{none:{},two:{student:{hybrid:{placement:head_stacked,number:2}}},"
        "one:{student:{hybrid:{placement:listed,layers:[3]}}}}"
    )
    found = students(small_config("stage=all", f"+variants={variants}"))
    for stage in range(3):
        assert len({student.path[stage].key for student in found}) == 1
    assert len({student.path[3].key for student in found}) == 3


@pytest.mark.parametrize(
    "change", ["seed=1", "stage_1.steps=5", "student.initialisation=inherit", "student.mixer.rotary=true"]
)
def test_whatever_decides_the_weights_decides_the_key(small_config: Config, change: str) -> None:
    (plain,), (changed,) = students(small_config("stage=all")), students(small_config("stage=all", change))
    assert plain.path[1].key != changed.path[1].key


def test_replicates_share_nothing(small_config: Config) -> None:
    found = students(small_config("stage=all", "replicates=3"))
    assert [student.replicate for student in found] == [0, 1, 2]
    assert len(nodes(found)) == 12


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{a:{stages:[2,1]}}", "stages=.*in ascending order"),
        ("{a:{seed:3}}", r"variants\.a\.seed: students of a run can differ in stages"),
        ("{a:{student:{initialisation:nice}}}", r"variants\.a: .*nice"),
        ("{a:3}", r"variants\.a=3: give the keys in which it differs"),
        ("{a:{stage_1:{stepz:3}}}", r"variants\.a: .*stepz"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_by_its_key(small_config: Config, variants: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        students(small_config("stage=all", f"+variants={variants}"))
