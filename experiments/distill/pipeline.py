"""The training pipeline, recorded unit by unit: baselines, a new teacher, and every stage of every student.

Each unit ends with a row of kind `done`. A resumed run skips finished units; of an interrupted one, it keeps the rows
up to the newest checkpoint and continues from there.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from lab.core.data.bad_samples import LeftOut
from lab.core.data.batch import Batch
from lab.core.data.stream import Batches, Stream
from lab.core.data.tokenizers import WordTokenizer
from lab.core.models.decoder import LanguageModel
from lab.core.runs.console import progress
from lab.core.runs.record import Run
from lab.core.tokenizer import Tokenizer
from lab.core.train.loop import TrainConfig, TrainedStep, Validation, fit
from lab.core.train.optim import adamw
from lab.core.train.state import TrainingState, checkpoints
from lab.experiments.distill.bad_samples import TEST, TRAIN, BadSamples, write_list
from lab.experiments.distill.baselines import baselines
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.data import Data
from lab.experiments.distill.evaluate import compare, compare_baselines
from lab.experiments.distill.load import student_of
from lab.experiments.distill.loader import loaded
from lab.experiments.distill.objectives import AnswersObjective, BatchSource, autocast_of, objective_of
from lab.experiments.distill.recorded_units import CountedRows, counter_of, keep_what_counts
from lab.experiments.distill.rows import LeftOutSoFar, Origin, Row, StepMetrics, joined
from lab.experiments.distill.sources import source_checkpoint
from lab.experiments.distill.stage_graph import StageNode, nodes, students
from lab.experiments.distill.stage_notes import note_stage, note_start_loss
from lab.experiments.distill.standing import Standing
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


@dataclass(frozen=True, slots=True)
class RunContext:
    """State shared by all work units of a run."""

    config: DistillConfig
    teacher: LanguageModel
    data: Data
    tokenizer: Tokenizer
    device: torch.device


def work_on_students(record: Run[Row], context: RunContext, source: Path | None) -> None:
    """Evaluate the baselines, then train and evaluate every student; `source` is the start of a single stage.

    Raises:
        RunError: if a loss is not finite, or the disk is full.
        CheckpointError: if a checkpoint is damaged.
    """
    todo = nodes(students(context.config))
    done = keep_what_counts(record, {node.key: _folder(record, node) for node in todo})
    teacher_digest = digest(context.teacher)
    if BASELINES not in done:
        _end(record, _baselines(record, context, {"unit": BASELINES}), {"unit": BASELINES}, num_before=0)
    for number, node in enumerate(todo, start=1):
        if node.key in done:
            continue
        title = f"{number} of {len(todo)}: " + (f"stage {node.stage}" if node.stage else "untrained")
        origin: Origin = {"unit": node.key, "stage": node.stage, "replicate": node.replicate}
        student = _starting_student(record, context, node, source, teacher_digest)
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
    if NEW_TEACHER in keep_what_counts(record, {NEW_TEACHER: folder}):
        return
    origin: Origin = {"unit": NEW_TEACHER}
    recipe, evaluation = context.config.stage_teacher, context.config.evaluation
    model = context.teacher.requires_grad_(True)
    tensors = dict(model.named_parameters())
    stream = context.data.stream(NEW_TEACHER, batch_size=recipe.batch_size, has_lessons=True)
    held_out = context.data.held_out(evaluation.num_validation_batches, batch_size=evaluation.batch_size)
    state = _training_state(tensors, tensors, recipe, stream, {"steps": recipe.steps})
    state.load_newest(folder)
    with _loaded(context, state, stream, recipe) as batches:
        objective = AnswersObjective(model, autocast_of(recipe, context.device))
        feed = BatchSource(objective, batches, held_out, context.device)
        num_before = _fit(record, state, feed, recipe, "stage_teacher", folder, origin, "teacher")
    model.requires_grad_(False)
    target = record.folder() / "teacher"
    if target.exists():
        # left by an attempt killed after this point; the weights are the same
        shutil.rmtree(target)
    assert isinstance(context.tokenizer, WordTokenizer), "a task that ships has one"
    write_teacher(model, context.tokenizer, target)
    _end(record, _baselines(record, context, origin), origin, num_before=num_before)


def _starting_student(
    record: Run[Row], context: RunContext, node: StageNode, source: Path | None, teacher_digest: str
) -> LanguageModel:
    """The student as left by the previous stage."""
    path: Path | None = None
    # a checkpoint of this stage is loaded later, with the rest of the training state
    if node.recipe is not None and not checkpoints(_folder(record, node)):
        if node.parent is None:
            assert source is not None, "a student that is not initialised here starts from another run"
            path = source_checkpoint(source, node)
        elif node.parent.recipe is not None:
            path = checkpoints(_folder(record, node.parent))[-1]
    student = student_of(node, path, teacher=context.teacher, teacher_digest=teacher_digest, config=context.config)
    if node.recipe is not None:
        note_stage(record.directory, node, path, student)
    return student


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
    assert recipe is not None, "a seed is not trained"
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
    stream = context.data.stream("stage", node.stage, node.replicate, batch_size=recipe.batch_size)
    held_out = context.data.held_out(evaluation.num_validation_batches, batch_size=evaluation.batch_size)
    facts: CheckpointFacts = {
        "stage": node.stage,
        "replicate": node.replicate,
        "steps": recipe.steps,
        "teacher": teacher_digest,
    }
    state = _training_state(own_tensors(student), trained, recipe, stream, facts)
    folder = _folder(record, node)
    state.load_newest(folder)
    with _loaded(context, state, stream, recipe) as batches:
        feed = BatchSource(objective, batches, held_out, context.device)
        num_rows = _fit(record, state, feed, recipe, f"stage_{node.stage}", folder, origin, title)
    student.requires_grad_(False)
    return num_rows


def _training_state(
    tensors: Mapping[str, Tensor],
    trained: dict[str, nn.Parameter],
    recipe: TrainConfig,
    stream: Stream,
    facts: CheckpointFacts,
) -> TrainingState:
    optimizer = adamw(
        trained,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(recipe.beta1, recipe.beta2),
    )
    return TrainingState(tensors=tensors, optimizer=optimizer, data=stream, facts=facts)


def _loaded(
    context: RunContext, state: TrainingState, stream: Stream, recipe: TrainConfig
) -> AbstractContextManager[Batches]:
    num_samples = (recipe.steps - state.step) * recipe.accumulation * recipe.batch_size
    return loaded(stream, context.config.loader, num_samples=num_samples, device=context.device)


def _fit(
    record: Run[Row],
    state: TrainingState,
    feed: BatchSource,
    recipe: TrainConfig,
    name: str,
    folder: Path,
    origin: Origin,
    title: str,
) -> int:
    """Train and record every step; returns the number of rows that the training has recorded."""
    counter = counter_of(record, origin["unit"])
    bad_samples = BadSamples(record, origin)

    def add(rows: Sequence[Row]) -> None:
        if rows:
            record.log(rows)
        for row in rows:
            counter.add(row)

    def note(left_out: Sequence[LeftOut], is_training: bool) -> None:
        # at once: a checkpoint counts on the rows of its step, whether or not that is logged
        add(bad_samples.new(left_out, TRAIN if is_training else TEST, state.step + is_training))

    def log(done: TrainedStep | Validation) -> None:
        num_left_out = state.data.state["num_left_out"]
        if done["kind"] == "validation" and done["step"] == 0:
            note_start_loss(record.directory, origin["unit"], done["loss"])
        add([_row_of(done, origin, num_left_out=num_left_out)])
        advance(state.step, standing.of(done, num_left_out))

    def facts() -> CountedRows:
        # a checkpoint counts on the rows before it, also after a power cut
        record.flush()
        write_list(record)
        return counter.counted

    state.more_facts = facts
    standing = Standing(feed.device)
    record.folder("checkpoints", folder.name)
    feed = replace(feed, note=note)
    with progress(title, recipe.steps, completed=state.step) as advance:
        fit(state, feed.step, recipe, name=name, folder=folder, validate=feed.validate, log=log)
    return counter.num_rows


def _row_of(done: TrainedStep | Validation, origin: Origin, *, num_left_out: int) -> Row:
    if done["kind"] == "validation":
        return {**origin, **done}
    so_far: LeftOutSoFar = {"left_out": num_left_out} if num_left_out else {}
    return {
        **origin,
        "kind": "train",
        "step": done["step"],
        **_step_metrics(done["metrics"]),
        "learning_rate": done["learning_rate"],
        "gradient_norm": done["gradient_norm"],
        "seconds": done["seconds"],
        **so_far,
    }


def _step_metrics(metrics: Mapping[str, float]) -> StepMetrics:
    assert metrics.keys() <= StepMetrics.__annotations__.keys(), f"{list(metrics)} are not all columns of a row"
    if "kl_per_token" not in metrics:
        return {"loss": metrics["loss"], "tokens": metrics["tokens"]}
    return {"loss": metrics["loss"], "kl_per_token": metrics["kl_per_token"], "tokens": metrics["tokens"]}


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
