"""What a distillation will need: memory of weights and of a step, and disk for checkpoints, estimated from the sizes.

Nothing is built for it: a config.json may say anything.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lab.core.data.batch import Batch
from lab.core.models.config import ModelConfig
from lab.core.resources import memory_of_processes, refuse_too_large, refuse_too_much_disk, size_in_words
from lab.experiments.distill.config import TEACHER, DistillConfig, Recipe
from lab.experiments.distill.data import Data
from lab.experiments.distill.process_memory import ALONE, Spread
from lab.experiments.distill.sizes import (
    bytes_per_token,
    checkpoint_bytes,
    dtype_of,
    gathered_bytes,
    logits_bytes,
    num_weights,
    passing_floats,
    trained_bytes,
    weights_bytes,
    written_bytes,
)
from lab.experiments.distill.stage_graph import nodes, students

# what a run loads at its end, for tables and figures, when the memory of its steps is free again
_LOADED_BYTES = 110e6

_AS_SAFETENSORS = "each process reads a GGUF file as a whole: give the teacher as safetensors, or start fewer processes"

# samples whose longest stands for those of every padded batch, and their mean for those of a packed one
_NUM_MEASURED = 8


def refuse_weights_that_do_not_fit(
    config: DistillConfig,
    architecture: ModelConfig,
    folder: Path,
    *,
    free: int | None = None,
    spread: Spread = ALONE,
) -> None:
    """Refuse models for whose weights and training there is no room, before one is built.

    Args:
        config: of the run.
        architecture: of its teacher.
        folder: where it writes; it need not exist.
        free: memory of the device of each process, where it is not this machine's.
        spread: over processes.

    Raises:
        ConfigError: with the estimate, what is free, and what to do.
    """
    what = f"a teacher of {num_weights(architecture):,} weights in {dtype_of(config)}".replace("torch.", "")
    hint = "choose a smaller teacher, or teacher.precision=bfloat16"
    if spread.processes > 1:
        hint += ", or cut it into parts: parallel.strategy=fsdp parallel.frozen=sharded"
    if free is None:
        _refuse_too_large_together(config, architecture, 0.0, what, hint, spread)
    else:
        refuse_too_large(weights_bytes(config, architecture, spread), what, hint, free=free)
        read = spread.here * _read_whole_bytes(config, architecture, spread)
        if read:
            refuse_too_large(read, what, _AS_SAFETENSORS, free=memory_of_processes(spread.here))
    num_students = 1 if config.stage == TEACHER else sum(node.recipe is not None for node in nodes(students(config)))
    refuse_too_much_disk(
        max(1, num_students) * checkpoint_bytes(config, architecture),
        folder,
        f"checkpoints of {what}",
        "free some space, lower replicates, or set LAB_OUTPUTS to a folder on a larger disk",
    )


def _refuse_too_large_together(
    config: DistillConfig, architecture: ModelConfig, num_bytes: float, what: str, hint: str, spread: Spread
) -> None:
    """Refuse what has no room in the memory that the processes on this machine share.

    Args:
        config: of the run.
        architecture: of its teacher.
        num_bytes: of a process, besides what it holds between two batches.
        what: the sizes that decide it.
        hint: what to lower.
        spread: over processes.

    Raises:
        ConfigError: with the estimate and what is free.
    """
    each = weights_bytes(config, architecture, spread) + num_bytes
    read = _read_whole_bytes(config, architecture, spread)
    if read > each:
        each, hint = read, _AS_SAFETENSORS
    if spread.processes == 1:
        refuse_too_large(each, what, hint)
        return
    together = spread.here * each + written_bytes(config, architecture, spread)
    if spread.here > 1:
        what = f"{spread.here} processes on this machine, {what}"
    # some of them may hold their weights by now
    refuse_too_large(together, what, hint, free=memory_of_processes(spread.here))


def _read_whole_bytes(config: DistillConfig, architecture: ModelConfig, spread: Spread) -> int:
    """Memory of a teacher that a process reads as a whole, before it keeps its part; 0 if it reads its part alone."""
    is_gguf = config.teacher.path is not None and config.teacher.path.endswith(".gguf")
    return num_weights(architecture) * dtype_of(config).itemsize if spread.frozen_parts > 1 and is_gguf else 0


def needs(config: DistillConfig, architecture: ModelConfig, spread: Spread = ALONE) -> str:
    """Optimizer steps of all trainings, and memory of the weights of each process, in words."""
    if config.stage == TEACHER:
        num_steps = config.stage_teacher.steps
    else:
        num_steps = sum(node.recipe.steps for node in nodes(students(config)) if node.recipe is not None)
    whose = "" if spread.processes == 1 else f" in each of {spread.processes} processes"
    return f"{num_steps:,} steps, {size_in_words(weights_bytes(config, architecture, spread))} of weights{whose}"


@dataclass(frozen=True, slots=True)
class Step:
    """What a batch of a run needs.

    Attributes:
        key: that sets the size of the batch.
        batch_size: samples.
        num_tokens: of a sample.
        num_bytes: memory, besides the weights that are loaded.
    """

    key: str
    batch_size: int
    num_tokens: int
    num_bytes: float


def long_samples(config: DistillConfig, data: Data) -> tuple[Batch, Batch]:
    """A batch as training reads it, and one as evaluation does; of a new teacher's the last: lessons are shorter."""
    others = data.stream("check", batch_size=_NUM_MEASURED).next_batch()
    if config.stage != TEACHER:
        return others, others
    recipe = config.stage_teacher
    stream = data.stream("check", batch_size=_NUM_MEASURED, has_lessons=True)
    last = recipe.steps * recipe.accumulation * recipe.batch_size
    stream.restore({**stream.state, "position": max(0, last - _NUM_MEASURED)})
    return stream.next_batch(), others


def refuse_steps_that_do_not_fit(
    config: DistillConfig, architecture: ModelConfig, trained: Batch, evaluated: Batch, *, spread: Spread = ALONE
) -> None:
    """Refuse batches for which there is no room.

    Args:
        config: of the run.
        architecture: of its teacher, whose weights are loaded.
        trained: a batch of a few samples of the training, the longest that it reads.
        evaluated: a batch of a few held-out samples.
        spread: over processes.

    Raises:
        ConfigError: naming the key of the batch, with the estimate and what is free.
    """
    held = trained_bytes(config, architecture, spread)
    for step in steps(config, architecture, trained, evaluated, spread=spread):
        what = f"{step.key}={step.batch_size} with samples of {step.num_tokens} tokens"
        hint = f"lower {step.key}, and raise accumulation for the same gradient"
        if spread.processes == 1:
            refuse_too_large(step.num_bytes, what, hint)
        else:
            beside = step.num_bytes - (0.0 if step.key.startswith("evaluation") else held)
            _refuse_too_large_together(config, architecture, beside, what, hint, spread)


def steps(
    config: DistillConfig, architecture: ModelConfig, trained: Batch, evaluated: Batch, *, spread: Spread = ALONE
) -> list[Step]:
    """Every kind of batch of a run; the samples are as for `refuse_steps_that_do_not_fit`."""
    size = dtype_of(config).itemsize
    gathered = gathered_bytes(config, architecture, spread)
    found = []
    if config.stage == TEACHER:
        recipes = {"stage_teacher": config.stage_teacher}
    else:
        recipes = {f"stage_{stage}": config.recipe(stage) for stage in config.stage_numbers}
    for name, recipe in recipes.items():
        kept = bytes_per_token(config, architecture, name)
        batch = (f"{name}.batch_size", recipe.batch_size, trained)
        found.append(_step(*batch, architecture, recipe, kept, is_packed=config.packing))
    passing = passing_floats(architecture) * size
    batch = ("evaluation.batch_size", config.evaluation.batch_size, evaluated)
    # held-out batches are padded, whatever the training's are
    evaluation = _step(*batch, architecture, config.stage_3, passing, is_packed=False)
    held = trained_bytes(config, architecture, spread)
    found = [replace(step, num_bytes=step.num_bytes + held) for step in found]
    return [replace(step, num_bytes=step.num_bytes + gathered) for step in (*found, evaluation)]


def _step(
    key: str,
    batch_size: int,
    samples: Batch,
    architecture: ModelConfig,
    recipe: Recipe,
    bytes_per_token: float,
    *,
    is_packed: bool,
) -> Step:
    num_tokens = _num_tokens(samples, batch_size, is_packed=is_packed)
    num_bytes = batch_size * (num_tokens * bytes_per_token + 2 * _data_bytes(samples))
    num_bytes += logits_bytes(architecture, recipe, batch_size * num_tokens)
    return Step(key, batch_size, num_tokens, max(num_bytes, _LOADED_BYTES))


def _num_tokens(samples: Batch, batch_size: int, *, is_packed: bool) -> int:
    """Positions that a sample takes in a batch: those of the longest, or the mean of a packed batch."""
    lengths = torch.maximum(samples.llm_lengths, samples.embedding_lengths)
    longest, mean = int(lengths.max()), float(lengths.double().mean())
    # a small batch may hold the longest
    return math.ceil(max(mean, longest / batch_size)) if is_packed else longest


def _data_bytes(samples: Batch) -> float:
    return samples.pixel_values.nbytes / len(samples.llm_lengths)
