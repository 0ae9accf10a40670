"""The training pipeline, recorded unit by unit: baselines, a new teacher, and every stage of every student.

Each unit ends with a row of kind `done`. A resumed run skips finished units; of an interrupted one, it keeps the rows
up to the newest checkpoint and continues from there.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypedDict

from lab.core.data.bad_samples import LeftOut
from lab.core.data.batch import Batch
from lab.core.data.tokenizers import WordTokenizer
from lab.core.models.decoder import LanguageModel
from lab.core.runs.console import progress
from lab.core.runs.record import Run
from lab.core.train.recompute import recomputed_layers
from lab.core.train.state import checkpoints
from lab.experiments.distill.bad_samples import TEST, BadSamples, write_list
from lab.experiments.distill.baselines import baselines
from lab.experiments.distill.evaluate import compare, compare_baselines
from lab.experiments.distill.load import student_of
from lab.experiments.distill.objectives import AnswersObjective, BatchSource, autocast_of, objective_of
from lab.experiments.distill.recorded_training import loaded_for, recorded_fit, shared, training_state
from lab.experiments.distill.recorded_units import keep_what_counts
from lab.experiments.distill.rows import Origin, Row, joined
from lab.experiments.distill.run_context import RunContext
from lab.experiments.distill.stage_graph import StageNode, nodes, students
from lab.experiments.distill.stage_notes import Start, note_stage
from lab.experiments.distill.starts import checkpoint_at
from lab.experiments.distill.student import own_tensors, set_trainable, trainable_names
from lab.experiments.distill.teacher import digest, write_teacher

BASELINES = "baselines"
NEW_TEACHER = "teacher"


class CheckpointFacts(TypedDict, total=False):
    """What meta.json of a checkpoint says besides the loop's own entries and `CountedRows`.

    Attributes:
        stage: 1, 2 or 3; a new teacher has none, as of the next two.
        replicate: number of the replicate.
        steps: optimizer steps of the whole training.
        teacher: a digest of the teacher's weights.
    """

    stage: int
    replicate: int
    steps: int
    teacher: str


def work_on_students(record: Run[Row], context: RunContext, starts: Mapping[str, Start]) -> None:
    """Evaluate the baselines, then train and evaluate every student; `starts` is from `find_starts`.

    Raises:
        RunError: if a loss is not finite, or the disk is full.
        CheckpointError: if a checkpoint is damaged.
    """
    todo = nodes(students(context.config))
    folders = {node.key: _folder(record, node) for node in todo}
    done = context.layout.ranks.of_first(partial(keep_what_counts, record, folders))
    teacher_digest = digest(context.teacher)
    if BASELINES not in done:
        _end(record, _baselines(record, context, {"unit": BASELINES}), {"unit": BASELINES}, num_before=0)
    for number, node in enumerate(todo, start=1):
        if node.key in done:
            continue
        title = f"{number} of {len(todo)}: " + (f"stage {node.stage}" if node.stage else "untrained")
        origin: Origin = {"unit": node.key, "stage": node.stage, "replicate": node.replicate}
        student = _starting_student(record, context, node, starts, teacher_digest)
        num_before = 0
        if node.recipe is not None:
            num_before = _train(record, context, node, student, teacher_digest, origin, title)
        evaluation = context.config.evaluation
        batches = context.data.held_out(evaluation.num_batches, batch_size=evaluation.batch_size)
        left_out: list[LeftOut] = []
        with progress(f"{title}, evaluation", len(batches)) as advance:
            rows = compare(
                student,
                context.teacher,
                _noted(batches, left_out),
                device=context.device,
                autocast=autocast_of(node.recipe, context.device),
                chunk_size=context.config.stage_3.chunk_size,
                follow=advance,
            )
        _end(record, [*rows, *BadSamples(record, origin).new(left_out, TEST)], origin, num_before=num_before)


def work_on_teacher(record: Run[Row], context: RunContext) -> None:
    """Train a teacher on the answers of a built-in task, evaluate it, and write it to `teacher/`.

    Raises:
        RunError: if a loss is not finite, or the disk is full.
        CheckpointError: if a checkpoint is damaged.
    """
    folder = record.directory / "checkpoints" / NEW_TEACHER
    if NEW_TEACHER in context.layout.ranks.of_first(partial(keep_what_counts, record, {NEW_TEACHER: folder})):
        return
    origin: Origin = {"unit": NEW_TEACHER}
    recipe, evaluation = context.config.stage_teacher, context.config.evaluation
    model = context.teacher.requires_grad_(True)
    tensors = dict(model.named_parameters())
    stream = shared(
        context.layout.ranks, context.data.stream(NEW_TEACHER, batch_size=recipe.batch_size, has_lessons=True), recipe
    )
    held_out = context.data.held_out(evaluation.num_validation_batches, batch_size=evaluation.batch_size)
    state = training_state(context, tensors, tensors, recipe, stream, {"steps": recipe.steps})
    state.load_newest(folder)
    with loaded_for(context, state, stream, recipe) as batches:
        objective = AnswersObjective(model, autocast_of(recipe, context.device))
        feed = BatchSource(objective, batches, held_out, context.device)
        num_before = recorded_fit(record, state, feed, recipe, "stage_teacher", folder, origin, "teacher")
    model.requires_grad_(False)
    if context.layout.ranks.is_first:
        target = record.folder() / "teacher"
        if target.exists():
            # left by an attempt killed after this point; the weights are the same
            shutil.rmtree(target)
        assert isinstance(context.tokenizer, WordTokenizer), "a task that ships has one"
        write_teacher(model, context.tokenizer, target)
    _end(record, _baselines(record, context, origin), origin, num_before=num_before)


def _starting_student(
    record: Run[Row], context: RunContext, node: StageNode, starts: Mapping[str, Start], teacher_digest: str
) -> LanguageModel:
    """The student as left by the previous stage, laid out over the processes."""
    path = context.layout.ranks.of_first(partial(_start, record, node, starts))
    student = student_of(
        node,
        path,
        teacher=context.teacher,
        teacher_digest=teacher_digest,
        config=context.config,
        layout=context.layout,
    )
    if node.recipe is not None and context.layout.ranks.is_first:
        note_stage(record.directory, node, path, student)
    return student


def _start(record: Run[Row], node: StageNode, starts: Mapping[str, Start]) -> Path | None:
    """The checkpoint from which a stage begins; None where there is none, or one of the stage itself."""
    # a checkpoint of this stage is loaded later, with the rest of the training state
    if node.recipe is None or checkpoints(_folder(record, node)):
        return None
    if node.parent is None:
        return checkpoint_at(starts.get(node.key), node, record.directory)
    return None if node.parent.recipe is None else checkpoints(_folder(record, node.parent))[-1]


def _train(
    record: Run[Row],
    context: RunContext,
    node: StageNode,
    student: LanguageModel,
    teacher_digest: str,
    origin: Origin,
    title: str,
) -> int:
    """Train a stage to its end; returns the number of rows that its training has recorded."""
    recipe, evaluation = node.recipe, context.config.evaluation
    assert recipe is not None, "an untrained student has no training"
    trained = set_trainable(student, trainable_names(student, node.stage, train_decay=recipe.train_decay))
    if not trained:
        # every layer stayed softmax: the student equals its teacher
        return 0
    objective = objective_of(
        node.stage,
        teacher=context.teacher,
        student=student,
        recipe=recipe,
        autocast=autocast_of(recipe, context.device),
    )
    whole_stream = context.data.stream("stage", node.stage, node.replicate, batch_size=recipe.batch_size)
    stream = shared(context.layout.ranks, whole_stream, recipe)
    held_out = context.data.held_out(evaluation.num_validation_batches, batch_size=evaluation.batch_size)
    facts: CheckpointFacts = {
        "stage": node.stage,
        "replicate": node.replicate,
        "steps": recipe.steps,
        "teacher": teacher_digest,
    }
    state = training_state(context, own_tensors(student), trained, recipe, stream, facts)
    folder = _folder(record, node)
    state.load_newest(folder)
    is_recomputed = node.stage == 3 and context.config.parallel.activation_checkpointing
    with loaded_for(context, state, stream, recipe) as batches, recomputed_layers(student, is_on=is_recomputed):
        feed = BatchSource(objective, batches, held_out, context.device)
        num_rows = recorded_fit(record, state, feed, recipe, f"stage_{node.stage}", folder, origin, title)
    student.requires_grad_(False)
    return num_rows


def _baselines(record: Run[Row], context: RunContext, origin: Origin) -> list[Row]:
    """Evaluate the baselines: the teacher, with images ablated, with windowed attention, and chance."""
    evaluation = context.config.evaluation
    batches = context.data.held_out(evaluation.num_batches, batch_size=evaluation.batch_size)
    left_out: list[LeftOut] = []
    with progress("baselines", len(batches)) as advance:
        rows, counts = compare_baselines(
            baselines(context.teacher, window=evaluation.window, num_sinks=evaluation.num_sinks),
            _noted(batches, left_out),
            device=context.device,
            chunk_size=context.config.stage_3.chunk_size,
            follow=advance,
        )
    task = context.config.data.source.task
    if task is not None:
        by_kind = task.chance()
        asked = {kind: total for kind, (_, total) in counts.by_kind.items()}
        right = {kind: by_kind[kind] * total for kind, total in asked.items()}
        accuracy = sum(right.values()) / sum(asked.values())
        rows += [
            {"kind": "accuracy", "model": "chance", "question": kind, "total": total, "accuracy": by_kind[kind]}
            for kind, total in sorted(asked.items())
        ]
        rows.append({"kind": "result", "model": "chance", "accuracy": accuracy})
    return [*rows, *BadSamples(record, origin).new(left_out, TEST)]


def _noted(batches: Iterable[Batch], left_out: list[LeftOut]) -> Iterator[Batch]:
    """The batches; what was left out on the way to them is appended to a list."""
    for batch in batches:
        left_out += batch.left_out
        yield batch


def _folder(record: Run[Row], node: StageNode) -> Path:
    return record.directory / "checkpoints" / node.name


def _end(record: Run[Row], rows: Sequence[Row], origin: Origin, *, num_before: int) -> None:
    """Record rows of a unit and its `done` row, written together: without it, the others are discarded.

    Args:
        record: the run.
        rows: of the evaluation.
        origin: what they are about.
        num_before: rows that the unit has recorded already.
    """
    done: Row = {**origin, "kind": "done", "num_rows": num_before + len(rows)}
    record.log([*(joined(origin, row) for row in rows), done])
    write_list(record)
