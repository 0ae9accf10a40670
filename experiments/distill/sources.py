"""Find recorded runs of `lab distill`, their students, and the run that a stage starts from, or say why not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lab.core.errors import CheckpointError, ConfigError, RunError
from lab.core.hydra_schema import to_typed
from lab.core.mixers.spec import mixer_spec
from lab.core.models.folder import Kind, ModelFolder
from lab.core.runs.atomic_files import refuse_special
from lab.core.runs.checked_lines import Findings, read
from lab.core.runs.find import (
    SCHEMA_VERSION,
    find_run,
    outputs_root,
    refuse_other_version,
    run_directories,
    run_name,
)
from lab.core.runs.json_files import json_object_or_none
from lab.core.train.digests import read_meta
from lab.core.train.state import checkpoints
from lab.experiments.distill.config import ALL, TEACHER, DistillConfig
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.stage_graph import StageNode, Student, students
from lab.experiments.distill.student import DEFAULT_MIXER

# keys of the recorded configuration that must agree between a stage and the run that it starts from
_COMMON = ("teacher", "student.initialisation", "student.mixer")


@dataclass(frozen=True)
class RecordedRun:
    """A run of `lab distill`.

    Attributes:
        folder: its directory.
        config: its configuration.
    """

    folder: Path
    config: DistillConfig

    @cached_property
    def students(self) -> list[Student]:
        """Every student of the run; its variants are merged and checked once.

        Raises:
            ConfigError: for an invalid variant.
        """
        return students(self.config)

    @property
    def teacher_folder(self) -> Path | None:
        """The folder of the teacher trained by `stage=teacher`; None for a run of students."""
        return self.folder / "teacher" if self.config.stage == TEACHER else None

    def checkpoint_of(self, node: StageNode) -> Path:
        """The last checkpoint of a trained stage.

        Raises:
            CheckpointError: if it was removed.
        """
        folder = self.folder / "checkpoints" / node.name
        found = checkpoints(folder)
        if not found:
            raise CheckpointError(f"{folder} has no checkpoint any more; run the stage again")
        return found[-1]


def find_recorded(name: str) -> RecordedRun:
    """Find a run by its directory or the end of its name.

    Raises:
        RunError: if there is none, or it is not a run of `lab distill`.
    """
    folder = find_run(name)
    if (folder / "multirun.yaml").exists():
        raise RunError(f"{folder} is a sweep; give one of the runs in it, such as {folder / '0'}")
    recorded = json_object_or_none(folder / "config.json")
    if recorded is None:
        raise RunError(
            f"{folder}/config.json is missing or damaged: this is neither a run, which `lab runs` lists, nor a "
            "checkpoint folder; give one"
        )
    if "teacher" not in recorded:
        raise RunError(f"{folder} is not a run of `lab distill`; `lab runs --study distill` lists those")
    refuse_other_version(folder)
    # a run records what its interpolations gave; one in somebody else's file could read the environment
    if "${" in json.dumps(recorded):
        raise RunError(f"{folder}/config.json holds an interpolation, which no run records; it was changed")
    return RecordedRun(folder, _typed(recorded, folder))


def choose_node(run: RecordedRun, selector: StudentSelector) -> StageNode:
    """The stage of the selected student.

    Raises:
        RunError: if the run has no such student, or it is not finished.
    """
    folder, config = run.folder, run.config
    if config.stage == TEACHER:
        raise RunError(f"{folder} trained a teacher, not a student; its checkpoint folder is {run.teacher_folder}")
    found = run.students
    labels = list(dict.fromkeys(student.label for student in found))
    if selector.variant is None and len(labels) > 1:
        raise RunError(f"{folder} has {len(labels)} students; choose one with --variant: {', '.join(labels)}")
    label = labels[0] if selector.variant is None else selector.variant
    if label not in labels:
        has = f"choose from {', '.join(labels)}" if labels[0] else "it has one student; leave --variant out"
        raise RunError(f"{folder} has no variant {label}; {has}")
    if not 0 <= selector.replicate < config.replicates:
        raise RunError(f"replicate={selector.replicate}: {folder} has {config.replicates}, numbered from 0")
    (student,) = [one for one in found if (one.label, one.replicate) == (label, selector.replicate)]
    done = done_units(folder)
    finished = [node for node in student.path if node.key in done]
    if selector.stage is not None:
        chosen = [node for node in finished if node.stage == selector.stage]
    else:
        # the untrained student counts only if the run trains no stage
        chosen = [node for node in finished if node.stage or node is student.path[-1]][-1:]
    if not chosen:
        asked = "" if selector.stage is None else f" of stage {selector.stage}"
        has = ", ".join(str(node.stage) for node in finished)
        fix = f"it has finished stage {has}" if has else f"continue it with `lab distill resume={run_name(folder)}`"
        raise RunError(f"{folder} has no finished student{asked}; {fix}")
    return chosen[0]


def find_source(config: DistillConfig, recorded: Mapping[str, object]) -> Path:
    """The run that `stage=2` or `stage=3` starts from: `from_run`, or the newest finished one of the previous stage.

    `from_run` may also be a student's checkpoint folder of any origin.

    Args:
        config: of this run.
        recorded: the same configuration as plain values, as recorded.

    Raises:
        RunError: if there is none, it has another teacher or student, or it is not finished.
    """
    stage = int(config.stage)
    if config.from_run is not None:
        folder = find_run(config.from_run)
        model = ModelFolder.find(folder)
        if model is not None:
            if model.kind is not Kind.student:
                raise RunError(f"from_run={config.from_run} is a teacher; stage={stage} starts from a student")
            return folder
        refuse_other_version(folder)
        reason = _why_not(folder, recorded)
        if reason is not None:
            raise RunError(f"from_run={config.from_run}: {reason}")
        if not _stages(folder) & set(range(1, stage)):
            raise RunError(f"from_run={config.from_run} trained no stage before stage={stage}; choose a run that did")
        return folder
    for folder in run_directories(outputs_root() / "distill"):
        if _why_not(folder, recorded) is None and stage - 1 in _stages(folder):
            return folder
    raise RunError(
        f"stage={stage} starts from stage {stage - 1}, and no finished run of it with this teacher and student is "
        f"under {outputs_root() / 'distill'}; run `lab distill stage={stage - 1}` first, or give from_run=RUN"
    )


def source_checkpoint(source: Path, node: StageNode) -> Path:
    """The checkpoint of the latest earlier stage in the run that a stage starts from.

    Args:
        source: from `find_source`; a student's folder is returned unchanged.
        node: the stage to start.

    Raises:
        RunError: if the run has no such checkpoint, or several.
    """
    if ModelFolder.find(source) is not None:
        return source
    for earlier in range(node.stage - 1, 0, -1):
        ends = [found[-1] for folder in source.glob(f"checkpoints/stage_{earlier}-*") if (found := checkpoints(folder))]
        ends = [path for path in ends if read_meta(path).get("replicate") == node.replicate]
        if len(ends) > 1:
            raise RunError(f"{source} holds {len(ends)} students of stage {earlier}; give from_run of a run with one")
        if ends:
            return ends[0]
    raise RunError(
        f"{source} has no checkpoint of replicate {node.replicate} before stage {node.stage}; lower replicates"
    )


def _why_not(folder: Path, recorded: Mapping[str, object]) -> str | None:
    """Why a stage cannot start from a run; None if it can."""
    theirs, status = (json_object_or_none(folder / name) for name in ("config.json", "status.json"))
    if theirs is None or status is None:
        return "its config.json or status.json is missing or damaged; choose another, or resume it"
    if "teacher" not in theirs or theirs.get("variants"):
        return "it is not a run of one student; choose another"
    if status.get("schema_version") != SCHEMA_VERSION:
        return "another version of lab recorded it; choose another"
    if status.get("status") != "finished":
        return f"it is {status.get('status', 'unreadable')}; finish it with resume={run_name(folder)}"
    for key in _COMMON:
        if _at(theirs, key) != _at(recorded, key):
            return f"its {key} differs; choose a run of the same teacher and student"
    return None


def _stages(folder: Path) -> set[int]:
    """The stages that a run trained."""
    config = json_object_or_none(folder / "config.json") or {}
    stage = str(config.get("stage"))
    if stage == ALL:
        return set(config.get("stages", []))
    return {int(stage)} if stage.isdecimal() and len(stage) == 1 else set()


def _typed(recorded: dict[str, object], folder: Path) -> DistillConfig:
    from omegaconf import DictConfig, OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        schema = OmegaConf.structured(DistillConfig)
        # a run that trained a teacher has no student
        schema.student.mixer = mixer_spec(str(_at(recorded, "student.mixer.kind") or DEFAULT_MIXER)).options
        merged = OmegaConf.merge(schema, recorded)
        assert isinstance(merged, DictConfig), "the schema is a mapping"
        return to_typed(merged, DistillConfig)
    except (OmegaConfBaseException, ConfigError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder}/config.json is of another version of lab, or damaged: {reason}") from error


def done_units(folder: Path) -> set[str]:
    """Units of work of a run that are recorded as done; lines that are damaged or cut off are ignored."""
    path = folder / "metrics.jsonl"
    refuse_special(path, RunError)
    try:
        with path.open("rb") as file:
            return {str(row.get("unit")) for row in read(file, Findings()) if row.get("kind") == "done"}
    except OSError:
        return set()


def _at(tree: Mapping[str, object], key: str) -> object:
    value: object = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
