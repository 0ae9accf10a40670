"""Which stages a run has to train: students whose first stages are identical share those checkpoints.

A student is a path of nodes: its initialisation, then its stages. The seven subsets of the stages therefore need seven
trainings instead of twelve, and students that differ only in their softmax layers share stages 1 and 2, in which every
layer is trained independently.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import Enum

from lab.experiments.distill.config import DistillConfig, Recipe
from lab.experiments.distill.student import StudentConfig

# the first stage that depends on which layers stay softmax
HYBRID_FROM = 3


@dataclass(frozen=True, slots=True, eq=False)
class StageNode:
    """One stage of one or several students.

    Attributes:
        key: a digest of everything that determines the weights.
        stage: 1, 2 or 3; 0 for the untrained student.
        replicate: of the random numbers and the data.
        student: how it is built.
        recipe: how it is trained; None for the untrained student.
        parent: the node it starts from; None for the untrained student, and for a stage that starts from another run.
    """

    key: str
    stage: int
    replicate: int
    student: StudentConfig
    recipe: Recipe | None
    parent: "StageNode | None"

    @property
    def name(self) -> str:
        """The name of its checkpoint folder."""
        return f"stage_{self.stage}-{self.key}"

    @property
    def is_hybrid(self) -> bool:
        """Whether some layers may be softmax attention."""
        return self.stage >= HYBRID_FROM


@dataclass(frozen=True, slots=True)
class Student:
    """One student of a run.

    Attributes:
        label: of its variant; empty if there is only one.
        replicate: number of the replicate.
        path: its nodes, in order.
    """

    label: str
    replicate: int
    path: tuple[StageNode, ...]


def students(config: DistillConfig) -> list[Student]:
    """Every student of a run, variant by variant; shared nodes are the same object.

    Raises:
        ConfigError: for an invalid variant.
    """
    known: dict[str, StageNode] = {}
    built = []
    for label, variant in config.of_variants().items():
        for replicate in range(config.replicates):
            path: list[StageNode] = []
            for node in _path(variant, replicate):
                node = known.setdefault(node.key, replace(node, parent=path[-1] if path else None))
                path.append(node)
            built.append(Student(label, replicate, tuple(path)))
    return built


def nodes(all_students: list[Student]) -> list[StageNode]:
    """Every node once, parents first."""
    return list({node.key: node for student in all_students for node in student.path}.values())


def _path(config: DistillConfig, replicate: int) -> Iterator[StageNode]:
    """The nodes of one student, without their parents."""
    stages = list(config.stage_numbers)
    # a single later stage starts from another run, which has the untrained student
    steps = stages if stages and stages[0] > 1 and config.stage != "all" else [0, *stages]
    decisive: list[object] = [config.seed, replicate]
    for stage in steps:
        recipe = config.recipe(stage) if stage else None
        decisive.append([stage, None if recipe is None else asdict(recipe)])
        key = _digest([*decisive, _plain_student(config.student, is_hybrid=stage >= HYBRID_FROM)])
        yield StageNode(key, stage, replicate, config.student, recipe, None)


def _plain_student(student: StudentConfig, *, is_hybrid: bool) -> dict[str, object]:
    return {key: value for key, value in asdict(student).items() if is_hybrid or key != "hybrid"}


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=_name_of)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _name_of(value: object) -> str:
    assert isinstance(value, Enum), f"{value!r} is not a configuration value"
    return str(value.value)
