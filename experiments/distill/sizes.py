"""How many bytes the parts of a distillation take, from the sizes of an architecture; nothing is built for it.

The factors of a step are fitted to measured peaks (tests/experiments/distill/test_estimate.py) and hold to 30 % below
and 50 % above.
"""

# Letters: B batch, T tokens, D model width, I width of the SwiGLU, H heads, G key/value heads, P head_dim, R states of
# a head.

import torch

from lab.core.models.config import DecoderConfig, ModelConfig
from lab.experiments.distill.config import TEACHER, DistillConfig, Recipe
from lab.experiments.distill.process_memory import ALONE, MOMENTS, Numbers, Spread, own_size

# newest, best, and the one that is being written
_CHECKPOINTS = 3


def num_weights(architecture: ModelConfig) -> int:
    """Weights of the layers, the embeddings and the head of a model; norms, biases and patches are left out."""
    head, vision = architecture.decoders[-1], architecture.vision
    total = 0 if head.tie_output else head.vocab_size * head.hidden_size
    for decoder in architecture.decoders:
        layer = _attention_weights(decoder) + 3 * decoder.hidden_size * decoder.intermediate_size
        total += decoder.num_layers * layer + decoder.vocab_size * decoder.hidden_size
    return total if vision is None else total + vision.num_weights(architecture.decoders[0].hidden_size)


def num_uncut(architecture: ModelConfig) -> int:
    """Weights of an embedding that is the output head too: processes that share a teacher do not cut it."""
    head = architecture.decoders[-1]
    return head.vocab_size * head.hidden_size if head.tie_output else 0


def weights_bytes(config: DistillConfig, architecture: ModelConfig, spread: Spread = ALONE) -> float:
    """Memory of the teacher, a student, gradients and moments in each process."""
    return numbers_of(config, architecture).memory(spread).teacher + trained_bytes(config, architecture, spread)


def trained_bytes(config: DistillConfig, architecture: ModelConfig, spread: Spread = ALONE) -> float:
    """Memory of what is trained, besides the teacher, in each process: weights, gradients and moments."""
    if config.stage == TEACHER:
        # a new teacher's weights are there already
        return (1 + MOMENTS) * num_weights(architecture) * dtype_of(config).itemsize
    return numbers_of(config, architecture).memory(spread).student if config.stage_numbers else 0.0


def written_bytes(config: DistillConfig, architecture: ModelConfig, spread: Spread) -> int:
    """Memory of the copy that the first of several processes writes as a checkpoint while the others go on."""
    if config.stage == TEACHER and spread.processes > 1:
        return (1 + MOMENTS) * num_weights(architecture) * dtype_of(config).itemsize
    return numbers_of(config, architecture).memory(spread).written if config.stage_numbers else 0


def checkpoint_bytes(config: DistillConfig, architecture: ModelConfig) -> float:
    """Disk for the checkpoints of one training that are there at a time."""
    numbers = numbers_of(config, architecture)
    trained = numbers.teacher if config.stage == TEACHER else numbers.trained
    return _CHECKPOINTS * (1 + MOMENTS) * trained * numbers.own_size


def gathered_bytes(config: DistillConfig, architecture: ModelConfig, spread: Spread) -> float:
    """Memory of the largest tensors that are cut into parts, while they are whole.

    A mixer is gathered with its gradient. What arrives is copied once more, into tensors of the right shapes.
    """
    largest = 0.0
    if spread.trained_parts > 1:
        numbers = numbers_of(config, architecture)
        mixer = max(_own_weights(config, decoder) + _output_weights(decoder) for decoder in architecture.decoders)
        largest = 2.0 * mixer * numbers.own_size
    if spread.frozen_parts > 1:
        largest += max(_largest_frozen(decoder) for decoder in architecture.decoders) * dtype_of(config).itemsize
    return 2 * largest


def batch_bytes(config: DistillConfig, architecture: ModelConfig, name: str, num_tokens: int, spread: Spread) -> float:
    """Memory that a batch of a stage adds to what is held, without its pixels.

    Args:
        config: of the run.
        architecture: of its teacher.
        name: of the stage's block in the configuration.
        num_tokens: of each sample.
        spread: over processes.
    """
    recipe: Recipe = getattr(config, name)
    tokens = recipe.batch_size * num_tokens
    passing = tokens * bytes_per_token(config, architecture, name) + logits_bytes(architecture, recipe, tokens)
    return passing + gathered_bytes(config, architecture, spread)


def numbers_of(config: DistillConfig, architecture: ModelConfig) -> Numbers:
    """What a run holds while it trains all of its mixers."""
    own = sum(decoder.num_layers * _own_weights(config, decoder) for decoder in architecture.decoders)
    recipes = [] if config.stage == TEACHER else [config.recipe(stage) for stage in config.stage_numbers]
    return Numbers(
        teacher=num_weights(architecture),
        uncut=num_uncut(architecture),
        own=own,
        output=sum(decoder.num_layers * _output_weights(decoder) for decoder in architecture.decoders),
        trained=own,
        size=dtype_of(config).itemsize,
        own_size=own_size(dtype_of(config), autocast=any(recipe.autocast for recipe in recipes)),
    )


def _attention_weights(decoder: DecoderConfig) -> int:
    return decoder.hidden_size * decoder.head_dim * 2 * (decoder.num_heads + decoder.num_kv_heads)


def _own_weights(config: DistillConfig, decoder: DecoderConfig) -> int:
    """A mixer: an attention with gates in the place of the output projection, which stays the teacher's."""
    more_gates = config.student.mixer.states_per_head - 1
    return _attention_weights(decoder) + more_gates * _output_weights(decoder)


def _output_weights(decoder: DecoderConfig) -> int:
    return decoder.hidden_size * decoder.head_dim * decoder.num_heads


def _largest_frozen(decoder: DecoderConfig) -> int:
    """Numbers of the largest module of a teacher that is gathered at once: one of the vocabulary, or of a layer."""
    return decoder.hidden_size * max(decoder.vocab_size, 3 * decoder.intermediate_size)


def bytes_per_token(config: DistillConfig, architecture: ModelConfig, name: str) -> float:
    """What a training step of a stage, by the name of its block, keeps for each token."""
    if name == "stage_3" and config.parallel.activation_checkpointing:
        # the inputs of all layers, everything of the one that is computed again, and about as much once more, which
        # allocators keep of the layers before: what they freed seldom fits
        inputs = sum(decoder.num_layers * decoder.hidden_size for decoder in architecture.decoders)
        more_states = config.student.mixer.states_per_head - 1
        kept = max(_layer_floats(decoder) + _mixer_floats(decoder, more_states) for decoder in architecture.decoders)
        one = max(_layer_floats(decoder) for decoder in architecture.decoders)
        floats = _kept_floats(config, architecture, per_layer=True) + inputs + one + kept
    else:
        floats = _kept_floats(config, architecture, per_layer=name in ("stage_1", "stage_2"))
    return floats * dtype_of(config).itemsize


def _kept_floats(config: DistillConfig, architecture: ModelConfig, *, per_layer: bool) -> float:
    """Numbers that a training step keeps for each token: of one layer, or of all, and the gradients of one mixer."""
    more_states = config.student.mixer.states_per_head - 1
    mixers = [_mixer_floats(decoder, more_states) for decoder in architecture.decoders]
    by_channel = 17.0 + 8.0 * more_states
    gradients = max(by_channel * decoder.num_heads * decoder.head_dim for decoder in architecture.decoders)
    passing = passing_floats(architecture) + gradients
    if per_layer:
        return passing + max(mixers)
    return passing + sum(
        decoder.num_layers * (mixer + _layer_floats(decoder))
        for decoder, mixer in zip(architecture.decoders, mixers, strict=True)
    )


def _layer_floats(decoder: DecoderConfig) -> float:
    """What of a layer is kept for each token besides its mixer's."""
    return 3.3 * decoder.hidden_size + 2.6 * decoder.intermediate_size


def _mixer_floats(decoder: DecoderConfig, more_states: int) -> float:
    """Operands, gates and outputs of one mixer for each token."""
    # values, outputs and gates of a second state, before and after each operation: counted, not measured
    by_channel = 13.0 + 7.0 * more_states
    return by_channel * decoder.num_heads * decoder.head_dim + 2.6 * decoder.hidden_size


def passing_floats(architecture: ModelConfig) -> float:
    """Numbers of one layer of the teacher for each token, which the next layer replaces."""
    return max(
        2.6 * decoder.intermediate_size + 4.0 * decoder.hidden_size + 2.6 * decoder.num_heads * decoder.head_dim
        for decoder in architecture.decoders
    )


def logits_bytes(architecture: ModelConfig, recipe: Recipe, num_tokens: int) -> float:
    """Logits of teacher and student and their softmax, in float32, of one chunk."""
    return 24.0 * min(recipe.chunk_size, num_tokens) * architecture.decoders[-1].vocab_size


def dtype_of(config: DistillConfig) -> torch.dtype:
    """Precision of the teacher's weights."""
    return torch.float32 if config.stage == TEACHER else config.teacher.precision.dtype
