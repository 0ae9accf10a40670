"""The stages of a student before its run: those of the runs that it went on from, as far as they are recorded."""

from collections.abc import Iterator
from pathlib import Path

from lab.core.errors import LabError
from lab.experiments.distill.sources import RecordedRun, find_recorded
from lab.experiments.distill.stage_graph import StageNode, nodes, students
from lab.experiments.distill.stage_notes import StageNote, digest_of_source, read_notes

# characters of a digest that a line shows
_SHOWN = 12


def trained(run: RecordedRun, node: StageNode) -> tuple[list[StageNode], list[str]]:
    """The trained stages of a student, from the first one on, and a sentence for each run that it went on from.

    Only recorded files are read: stages.json of the run, and config.json and stages.json of those before it. Where one
    is gone, or its checkpoint is another one by now, the sentence says what is recorded of it.

    Args:
        run: of the student.
        node: its last stage.

    Raises:
        RunError: if stages.json of the run is damaged.
    """
    path = list(_path(node))
    note = None
    if path and path[0].parent is None:
        note = next((note for note in read_notes(run.folder) if note["unit"] == path[0].key), None)
    if note is None or note["source"] is None:
        return path, []
    source = Path(note["source"])
    stage = f"Stage {path[0].stage} went on from"
    found = _found(source, note)
    if found is None:
        digest = f", SHA-256 {note['digest'][:_SHOWN]}…" if note["digest"] else ""
        return path, [f"{stage} `{_name(source)}`{digest}; how that was trained is not recorded here any more."]
    before, sentences = trained(*found)
    return before + path, [*sentences, f"{stage} `{_name(source)}`, whose stages are listed too."]


def _path(node: StageNode | None) -> Iterator[StageNode]:
    """The trained stages of the run up to a node, in order."""
    if node is not None:
        yield from _path(node.parent)
        if node.recipe is not None:
            yield node


def _found(source: Path, note: StageNote) -> tuple[RecordedRun, StageNode] | None:
    """The run and the stage whose checkpoint a stage went on from; None if it is gone, or was written anew."""
    folder = source.parent
    # RUN/checkpoints/STAGE/STEP; an exported student is no checkpoint of a run
    if folder.parent.name != "checkpoints" or (source.exists() and digest_of_source(source) != note["digest"]):
        return None
    try:
        run = find_recorded(str(folder.parent.parent))
        (node,) = [node for node in nodes(students(run.config)) if node.name == folder.name]
    except (LabError, ValueError):
        return None
    return run, node


def _name(source: Path) -> str:
    """A checkpoint as RUN/checkpoints/STAGE/STEP, or the name of a folder: a card is read elsewhere."""
    return "/".join(source.parts[-4:]) if source.parent.parent.name == "checkpoints" else source.name
