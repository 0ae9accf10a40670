"""What each stage goes on from, what it trains, and the loss at its start: logged, and kept in stages.json of the run.

For a run that starts from another one, the file also says what each of its students starts from, before any begins.

`lab show` prints the words of the file, and has all of it as JSON.
"""

import json
import logging
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from lab.core.models.decoder import LanguageModel
from lab.core.runs.atomic_files import write_atomically
from lab.core.runs.json_files import read_json_object
from lab.core.runs.sums import SUMS, file_digest
from lab.core.train.digests import META
from lab.experiments.distill.stage_graph import StageNode
from lab.experiments.distill.student import trainable_names

_log = logging.getLogger(__name__)

NOTES = "stages.json"

# characters of a digest that a line shows
_SHOWN = 12
_EXPECTED = "Expected"


class Group(TypedDict):
    """Trained parameters of one name, over all layers.

    Attributes:
        name: the part of the mixer.
        parameters: how many numbers.
        share: of all parameters of the student.
    """

    name: str
    parameters: int
    share: float


class Start(TypedDict):
    """What a student starts from, in another run or in a folder.

    Attributes:
        source: the checkpoint or student folder.
        digest: as `StageNote.digest`.
    """

    source: str
    digest: str | None


class StageNote(TypedDict):
    """One stage of one or several students.

    Attributes:
        unit: its unit of work.
        stage: 1, 2 or 3.
        replicate: number of the replicate.
        source: the checkpoint or student folder that it starts from; None if it starts from initial values.
        digest: SHA-256 of what lists the digests of the source's files: meta.json of a checkpoint, SHA256SUMS of a
            folder; None without one.
        initialisation: of the mixers.
        trained: groups, the largest first.
        parameters: trained numbers.
        share: of all parameters of the student.
        start_loss: on held-out data before the first step, in the unit of the stage's loss; the training should end
            below it.
        words: the same in lines.
    """

    unit: str
    stage: int
    replicate: int
    source: str | None
    digest: str | None
    initialisation: str
    trained: list[Group]
    parameters: int
    share: float
    start_loss: NotRequired[float]
    words: list[str]


def note_stage(directory: Path, node: StageNode, source: Path | None, student: LanguageModel) -> None:
    """Record a stage that begins, and log what it goes on from and what it trains; of one that goes on, log it again.

    Args:
        directory: of the run.
        node: the stage.
        source: of its tensors; None for initial values, and for a stage that goes on from its own checkpoint.
        student: as it starts.

    Raises:
        RunError: if stages.json is damaged, or cannot be written.
    """
    assert node.recipe is not None, "only what is trained has a note"
    notes = read_notes(directory)
    note = next((note for note in notes if note["unit"] == node.key), None)
    if note is None:
        names = trainable_names(student, node.stage, train_decay=node.recipe.train_decay)
        groups, total = _groups(student, names)
        number = sum(group["parameters"] for group in groups)
        note = StageNote(
            unit=node.key,
            stage=node.stage,
            replicate=node.replicate,
            source=None if source is None else str(source),
            digest=None if source is None else digest_of_source(source),
            initialisation=node.student.initialisation.value,
            trained=groups,
            parameters=number,
            share=number / total,
            words=[],
        )
        note["words"] = _words(note)
        _write(directory, stages=[*notes, note])
    for line in note["words"]:
        _log.info(line)


def note_start_loss(directory: Path, unit: str, loss: float) -> None:
    """Add the held-out loss before the first step to the note of a unit, and log it.

    Raises:
        RunError: if stages.json is damaged, or cannot be written.
    """
    notes = read_notes(directory)
    for note in notes:
        if note["unit"] == unit:
            note["start_loss"] = loss
            note["words"] = _words(note)
            _write(directory, stages=notes)
            _log.info(note["words"][-1])


def read_notes(directory: Path) -> list[StageNote]:
    """The stages that a run has begun; empty for one of a teacher.

    Raises:
        RunError: if stages.json is damaged.
    """
    return cast("list[StageNote]", _content(directory).get("stages", []))


def read_starts(directory: Path) -> dict[str, Start]:
    """What each student of a run starts from in other runs, by its unit; empty before the run has begun.

    Raises:
        RunError: if stages.json is damaged.
    """
    return cast("dict[str, Start]", _content(directory).get("starts", {}))


def note_starts(directory: Path, starts: Mapping[str, Start]) -> None:
    """Record what each student starts from, so that a run which goes on takes the same ones.

    Raises:
        RunError: if stages.json is damaged, or cannot be written.
    """
    if starts and not read_starts(directory):
        _write(directory, starts=dict(starts))


def expected_of(overrides: list[str]) -> str | None:
    """What the file of the experiment that was chosen says one should expect; None without one.

    Args:
        overrides: as they were typed.
    """
    names = [word.partition("=")[2] for word in overrides if word.lstrip("+").startswith("experiment=")]
    path = files("lab.conf").joinpath("experiment", *names[-1].split("/")) if names else None
    text = path.parent.joinpath(f"{path.name}.yaml") if isinstance(path, Path) else None
    if text is None or not text.is_file():
        return None
    comments = (line.lstrip("# ").strip() for line in text.read_text().splitlines() if line.startswith("#"))
    whole = " ".join(line for line in comments if not line.startswith("@"))
    return whole[whole.index(_EXPECTED) :] if _EXPECTED in whole else None


def note_expected(directory: Path, overrides: list[str]) -> None:
    """Record what the experiment's file says one should expect, if one was chosen."""
    expected = expected_of(overrides)
    if expected is not None:
        _write(directory, expected=expected)


def _groups(student: LanguageModel, names: tuple[str, ...]) -> tuple[list[Group], int]:
    """The trained groups of a student, the largest first, and the number of all its parameters."""
    parameters = dict(student.named_parameters())
    total = sum(parameter.numel() for parameter in parameters.values())
    counts: dict[str, int] = {}
    for name in names:
        group = name.rpartition(".mixer.")[2].partition(".")[0]
        counts[group] = counts.get(group, 0) + parameters[name].numel()
    found = [Group(name=name, parameters=count, share=count / total) for name, count in counts.items()]
    return sorted(found, key=lambda group: -group["parameters"]), total


def digest_of_source(source: Path) -> str | None:
    """What `StageNote.digest` is of a checkpoint or a student's folder; None without a list of digests."""
    for name in (META, SUMS):
        if (source / name).exists():
            return file_digest(source / name)
    return None


def _words(note: StageNote) -> list[str]:
    start = f"its initial values ({note['initialisation']})"
    if note["source"] is not None:
        digest = f" (SHA-256 {note['digest'][:_SHOWN]}…)" if note["digest"] else ""
        start = f"{note['source']}{digest}"
    groups = ", ".join(f"{group['name']} {group['parameters']:,} ({group['share']:.2%})" for group in note["trained"])
    lines = [
        f"stage {note['stage']}, replicate {note['replicate']}, goes on from {start}",
        f"it trains {note['parameters']:,} parameters ({note['share']:.2%} of all): {groups}",
    ]
    if "start_loss" in note:
        lines.append(f"its held-out loss is {note['start_loss']:.4g} before the first step; expect less at the end")
    return lines


def _content(directory: Path) -> dict[str, object]:
    path = directory / NOTES
    hint = "remove it, and the stages that are still to come are recorded"
    return read_json_object(path, hint=hint) if path.exists() else {}


def _write(directory: Path, **parts: object) -> None:
    """Write the file with some of its parts replaced."""
    content = {"expected": None, "stages": [], **_content(directory), **parts}
    write_atomically(directory / NOTES, json.dumps(content, indent=2, allow_nan=False) + "\n")
