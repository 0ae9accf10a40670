"""What a distillation will need: memory of weights and of a step, and disk for checkpoints, estimated from the sizes.

The factors are fitted to measured peaks (tests/experiments/distill/test_estimate.py) and hold to 30 % below and 50 %
above.
Nothing is built for it: a config.json may say anything.
"""

# Letters: B batch, T tokens, D model width, I width of the SwiGLU, H heads, G key/value heads, P head_dim.

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lab.core.data.batch import Batch
from lab.core.models.config import DecoderConfig, ModelConfig
from lab.core.resources import refuse_too_large, refuse_too_much_disk, size_in_words
from lab.experiments.distill.config import TEACHER, DistillConfig, Recipe
from lab.experiments.distill.data import Data
from lab.experiments.distill.stage_graph import nodes, students

# moments of AdamW for each trained weight
_MOMENTS = 2

# what a run loads at its end, for tables and figures, when the memory of its steps is free again
_LOADED_BYTES = 110e6

# samples whose longest stands for those of every padded batch, and their mean for those of a packed one
_NUM_MEASURED = 8

# newest, best, and the one that is being written
_CHECKPOINTS = 3


def refuse_weights_that_do_not_fit(
    config: DistillConfig, architecture: ModelConfig, folder: Path, *, free: int | None = None
) -> None:
    """Refuse models for whose weights and training there is no room, before one is built.

    Args:
        config: of the run.
        architecture: of its teacher.
        folder: where it writes; it need not exist.
        free: memory of the device, where it is not this machine's.

    Raises:
        ConfigError: with the estimate, what is free, and what to do.
    """
    what = f"a teacher of {num_weights(architecture):,} weights in {_dtype(config)}".replace("torch.", "")
    hint = "choose a smaller teacher, or teacher.precision=bfloat16"
    refuse_too_large(weights_bytes(config, architecture), what, hint, free=free)
    num_students = 1 if config.stage == TEACHER else sum(node.recipe is not None for node in nodes(students(config)))
    refuse_too_much_disk(
        max(1, num_students) * checkpoint_bytes(config, architecture),
        folder,
        f"checkpoints of {what}",
        "free some space, lower replicates, or set LAB_OUTPUTS to a folder on a larger disk",
    )


def needs(config: DistillConfig, architecture: ModelConfig) -> str:
    """Optimizer steps of all trainings, and memory of the weights, in words."""
    if config.stage == TEACHER:
        num_steps = config.stage_teacher.steps
    else:
        num_steps = sum(node.recipe.steps for node in nodes(students(config)) if node.recipe is not None)
    return f"{num_steps:,} steps, {size_in_words(weights_bytes(config, architecture))} of weights"


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
    config: DistillConfig, architecture: ModelConfig, trained: Batch, evaluated: Batch
) -> None:
    """Refuse batches for which there is no room.

    Args:
        config: of the run.
        architecture: of its teacher, whose weights are loaded.
        trained: a batch of a few samples of the training, the longest that it reads.
        evaluated: a batch of a few held-out samples.

    Raises:
        ConfigError: naming the key of the batch, with the estimate and what is free.
    """
    for step in steps(config, architecture, trained, evaluated):
        what = f"{step.key}={step.batch_size} with samples of {step.num_tokens} tokens"
        refuse_too_large(step.num_bytes, what, f"lower {step.key}, and raise accumulation for the same gradient")


def steps(config: DistillConfig, architecture: ModelConfig, trained: Batch, evaluated: Batch) -> list[Step]:
    """Every kind of batch of a run; the samples are as for `refuse_steps_that_do_not_fit`."""
    size = _dtype(config).itemsize
    found = []
    if config.stage == TEACHER:
        recipes = {"stage_teacher": config.stage_teacher}
    else:
        recipes = {f"stage_{stage}": config.recipe(stage) for stage in config.stage_numbers}
    for name, recipe in recipes.items():
        kept = _kept_floats(architecture, per_layer=name in ("stage_1", "stage_2")) * size
        batch = (f"{name}.batch_size", recipe.batch_size, trained)
        found.append(_step(*batch, architecture, recipe, kept, is_packed=config.packing))
    passing = _passing_floats(architecture) * size
    batch = ("evaluation.batch_size", config.evaluation.batch_size, evaluated)
    # held-out batches are padded, whatever the training's are
    evaluation = _step(*batch, architecture, config.stage_3, passing, is_packed=False)
    moments = trained_bytes(config, architecture)
    return [*(replace(step, num_bytes=step.num_bytes + moments) for step in found), evaluation]


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
    num_bytes += _logits_bytes(architecture, recipe, batch_size * num_tokens)
    return Step(key, batch_size, num_tokens, max(num_bytes, _LOADED_BYTES))


def num_weights(architecture: ModelConfig) -> int:
    """Weights of the layers, the embedding and the head of a model; norms and patches are left out."""
    head, total = architecture.decoders[-1], 0
    for decoder in architecture.decoders:
        layer = _attention_weights(decoder) + 3 * decoder.hidden_size * decoder.intermediate_size
        total += decoder.num_layers * layer
    return total + (1 if head.tie_output else 2) * head.vocab_size * head.hidden_size


def weights_bytes(config: DistillConfig, architecture: ModelConfig) -> float:
    """Memory of the teacher, a student, gradients and moments."""
    return num_weights(architecture) * _dtype(config).itemsize + trained_bytes(config, architecture)


def trained_bytes(config: DistillConfig, architecture: ModelConfig) -> float:
    """Memory of what is trained, besides the teacher: weights, gradients and moments."""
    if not config.stage_numbers and config.stage != TEACHER:
        return 0.0
    # a new teacher's weights are there already
    copies = 1 + _MOMENTS + (config.stage != TEACHER)
    return copies * _num_trained(config, architecture) * _dtype(config).itemsize


def checkpoint_bytes(config: DistillConfig, architecture: ModelConfig) -> float:
    """Disk for the checkpoints of one training that are there at a time."""
    return _CHECKPOINTS * (1 + _MOMENTS) * _num_trained(config, architecture) * _dtype(config).itemsize


def _num_trained(config: DistillConfig, architecture: ModelConfig) -> int:
    if config.stage == TEACHER:
        return num_weights(architecture)
    # a mixer is an attention with a gate in the place of the output projection, which stays the teacher's
    return sum(decoder.num_layers * _attention_weights(decoder) for decoder in architecture.decoders)


def _attention_weights(decoder: DecoderConfig) -> int:
    return decoder.hidden_size * decoder.head_dim * 2 * (decoder.num_heads + decoder.num_kv_heads)


def _kept_floats(architecture: ModelConfig, *, per_layer: bool) -> float:
    """Numbers that a training step keeps for each token: of one layer, or of all, and the gradients of one mixer."""
    mixers = [_mixer_floats(decoder) for decoder in architecture.decoders]
    gradients = max(17.0 * decoder.num_heads * decoder.head_dim for decoder in architecture.decoders)
    passing = _passing_floats(architecture) + gradients
    if per_layer:
        return passing + max(mixers)
    layers = zip(architecture.decoders, mixers, strict=True)
    return passing + sum(
        decoder.num_layers * (mixer + 3.3 * decoder.hidden_size + 2.6 * decoder.intermediate_size)
        for decoder, mixer in layers
    )


def _mixer_floats(decoder: DecoderConfig) -> float:
    """Operands, gates and outputs of one mixer for each token."""
    return 13.0 * decoder.num_heads * decoder.head_dim + 2.6 * decoder.hidden_size


def _passing_floats(architecture: ModelConfig) -> float:
    """Numbers of one layer of the teacher for each token, which the next layer replaces."""
    return max(
        2.6 * decoder.intermediate_size + 4.0 * decoder.hidden_size + 2.6 * decoder.num_heads * decoder.head_dim
        for decoder in architecture.decoders
    )


def _logits_bytes(architecture: ModelConfig, recipe: Recipe, num_tokens: int) -> float:
    """Logits of teacher and student and their softmax, in float32, of one chunk."""
    return 24.0 * min(recipe.chunk_size, num_tokens) * architecture.decoders[-1].vocab_size


def _num_tokens(samples: Batch, batch_size: int, *, is_packed: bool) -> int:
    """Positions that a sample takes in a batch: those of the longest, or the mean of a packed batch."""
    lengths = torch.maximum(samples.llm_lengths, samples.embedding_lengths)
    longest, mean = int(lengths.max()), float(lengths.double().mean())
    # a small batch may hold the longest
    return math.ceil(max(mean, longest / batch_size)) if is_packed else longest


def _data_bytes(samples: Batch) -> float:
    return samples.pixel_values.nbytes / len(samples.llm_lengths)


def _dtype(config: DistillConfig) -> torch.dtype:
    return torch.float32 if config.stage == TEACHER else config.teacher.precision.dtype
