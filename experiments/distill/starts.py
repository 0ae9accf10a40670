"""What the students of `stage=2` and `stage=3` start from: found when a run begins, and the same when it goes on."""

from collections.abc import Mapping
from pathlib import Path

from lab.core.errors import RunError
from lab.core.runs.find import outputs_root, run_directories
from lab.core.train.state import checkpoints
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.sources import done_units, find_source, source_checkpoint
from lab.experiments.distill.stage_graph import StageNode, nodes, students
from lab.experiments.distill.stage_notes import NOTES, Start, digest_of_source, read_starts

# characters of a digest that a line shows
_SHOWN = 12


def find_starts(config: DistillConfig, recorded: Mapping[str, object], directory: Path | None) -> dict[str, Start]:
    """What each student of a single stage starts from, by its unit: as recorded in the run, or else as found now.

    Args:
        config: of this run.
        recorded: the same configuration as plain values, as recorded.
        directory: of the run, which may have begun before; None if it is not known.

    Returns:
        Empty for a stage that starts from no other run, and for a run that needs no other one any more.

    Raises:
        RunError: as `find_source` and `source_checkpoint`, or if stages.json of the run is damaged.
    """
    if config.stage not in ("2", "3"):
        return {}
    known = {} if directory is None else read_starts(directory)
    waiting = waiting_nodes(config, directory)
    if known or not waiting:
        return known
    source = find_source(config, recorded)
    found = {node.key: source_checkpoint(source, node) for node in waiting}
    return {unit: Start(source=str(path.absolute()), digest=digest_of_source(path)) for unit, path in found.items()}


def waiting_nodes(config: DistillConfig, directory: Path | None) -> list[StageNode]:
    """The stages of a run that can only begin from another run: those without a checkpoint that are not done."""
    todo = [node for node in nodes(students(config)) if node.recipe is not None and node.parent is None]
    if directory is None:
        return todo
    done = done_units(directory)
    return [node for node in todo if node.key not in done and not checkpoints(directory / "checkpoints" / node.name)]


def waiting_checkpoints(
    config: DistillConfig, starts: Mapping[str, Start], directory: Path | None
) -> list[tuple[StageNode, Path]]:
    """The stages of `waiting_nodes`, each with the checkpoint or folder that it starts from; nothing of it is read.

    Raises:
        RunError: as `checkpoint_at`.
    """
    waiting = waiting_nodes(config, directory) if starts else []
    return [(node, checkpoint_at(starts.get(node.key), node, directory)) for node in waiting]


def checkpoint_at(start: Start | None, node: StageNode, directory: Path | None) -> Path:
    """The checkpoint, or student's folder, that a stage starts from: the recorded one, or a copy where runs are now.

    Args:
        start: from `find_starts`; None if the run has none for this stage.
        node: the stage.
        directory: of the run, for the message.

    Raises:
        RunError: if it is gone, or was changed since the run began.
    """
    if start is None:
        raise RunError(f"{directory}/{NOTES} does not say what {node.name} starts from; start a new run")
    path = Path(start["source"])
    if path.exists() and digest_of_source(path) == start["digest"]:
        return path
    # all runs may have been moved together; the end of a checkpoint's path is RUN/checkpoints/STAGE/STEP
    *_, name, inside, stage, step = ("", "", "", *path.parts)
    for run in run_directories(outputs_root() / "distill") if start["digest"] and inside == "checkpoints" else ():
        moved = run / inside / stage / step
        if run.name == name and moved.exists() and digest_of_source(moved) == start["digest"]:
            return moved
    what = "holds another student by now" if path.exists() else "is gone"
    digest = f" (SHA-256 {start['digest'][:_SHOWN]}…)" if start["digest"] else ""
    raise RunError(f"{directory} began from {path}{digest}, which {what}; put that back, or start a new run")
