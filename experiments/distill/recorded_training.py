"""One training of a run: its state, its batches, and a row for each of its steps."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from lab.core.data.bad_samples import LeftOut
from lab.core.data.share import SharedStream
from lab.core.data.stream import Batches, Stream
from lab.core.parallel.ranks import Ranks
from lab.core.runs.console import progress
from lab.core.runs.record import Run
from lab.core.train.loop import TrainConfig, TrainedStep, Validation, fit
from lab.core.train.optim import adamw
from lab.core.train.state import TrainingState
from lab.experiments.distill.bad_samples import TEST, TRAIN, BadSamples, write_list
from lab.experiments.distill.loader import loaded
from lab.experiments.distill.objectives import BatchSource
from lab.experiments.distill.recorded_units import CountedRows, counter_of
from lab.experiments.distill.rows import LeftOutSoFar, Origin, Row, StepMetrics
from lab.experiments.distill.run_context import RunContext
from lab.experiments.distill.stage_notes import note_start_loss
from lab.experiments.distill.standing import Standing


def training_state(
    context: RunContext,
    tensors: Mapping[str, Tensor],
    trained: dict[str, nn.Parameter],
    recipe: TrainConfig,
    stream: Stream | SharedStream,
    facts: Mapping[str, object],
) -> TrainingState:
    """The state of a training that has not begun.

    Args:
        context: of the run.
        tensors: that checkpoints hold.
        trained: those that are trained.
        recipe: how.
        stream: of the batches.
        facts: for meta.json.
    """
    optimizer = adamw(
        trained,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(recipe.beta1, recipe.beta2),
    )
    return TrainingState(tensors=tensors, optimizer=optimizer, data=stream, facts=facts, layout=context.layout)


def shared(ranks: Ranks, stream: Stream, recipe: TrainConfig) -> Stream | SharedStream:
    """What this process, one of some or alone, reads of a stream."""
    if ranks.size == 1:
        return stream
    sizes = {"num_total": recipe.accumulation, "batch_size": recipe.batch_size}
    return SharedStream(stream, ranks.gathered, rank=ranks.rank, size=ranks.size, **sizes)


def loaded_for(
    context: RunContext, state: TrainingState, stream: Stream | SharedStream, recipe: TrainConfig
) -> AbstractContextManager[Batches]:
    """What this process will read, ahead of the steps if that is worth it."""
    num_batches = context.layout.ranks.share(recipe.accumulation)
    num_samples = (recipe.steps - state.step) * num_batches * recipe.batch_size
    config = context.config
    processes = config.loader_processes
    return loaded(stream, config.loader, num_samples=num_samples, device=context.device, processes=processes)


def recorded_fit(
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
        if done["kind"] == "validation" and done["step"] == 0 and state.layout.ranks.is_first:
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
