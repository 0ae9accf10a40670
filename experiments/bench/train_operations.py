"""Operations of a training step of each stage, from the sizes of the teacher's layers and the student's mixers."""

# Letters: B batch, T tokens, H heads, P head_dim, V vocabulary, D model width.

from torch import nn

from lab.core.data.batch import Batch
from lab.core.mixers.mamba2 import Mamba2
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import LanguageModel
from lab.experiments.bench.operations import Operations, attention_operations, linear_operations, scan_operations
from lab.experiments.distill.config import Recipe
from lab.experiments.distill.loss_mask import inputs_of, loss_mask

LAYERWISE = (1, 2)


def training_operations(
    stage: int, teacher: LanguageModel, student: LanguageModel, batch: Batch, *, with_operators: bool = True
) -> Operations:
    """Products of a step: layers and, in stage 3, logits; embeddings of pictures and tokens are a small part.

    The teacher runs forward: in stages 1 and 2 its last layer up to the head outputs, in stage 3 to its logits. A
    mixer's trained projections run forward and have a gradient by their weights; in stage 3 all matrices of the student
    have a gradient by their input too, but for what the first layer's mixer reads. The state-space operator runs
    forward and backward.

    Args:
        stage: 1, 2 or 3.
        teacher: softmax attention in every layer.
        student: Mamba-2 in every layer.
        batch: of the step.
        with_operators: whether attention's and the state-space operator's products count, or linear layers alone.
    """
    inputs = inputs_of(teacher, batch)
    num_sequences = inputs.tokens.shape[0]
    layers, mixers = teacher.mixer_layers(), student.mixer_layers()
    total = Operations(0.0, 0.0)
    for num_tokens, theirs, ours in zip(teacher.layer_lengths(inputs), layers, mixers, strict=True):
        attention, mixer = theirs.layer.mixer, ours.layer.mixer
        assert isinstance(attention, SoftmaxAttention), "a teacher has no other"
        assert isinstance(mixer, Mamba2), "the student of this benchmark"
        shape, num_rows = attention.shape, num_sequences * num_tokens
        num_heads = num_sequences * shape.num_heads
        behind = attention.wo.weight.numel() + _num_weights(theirs.layer.mlp)
        total += linear_operations(num_rows, attention.wqkv.weight.numel())
        if with_operators:
            total += attention_operations(num_tokens, shape.head_dim, shape.head_dim).times(num_heads)
            scan = scan_operations(num_tokens, shape.head_dim, shape.head_dim, has_backward=True)
            total += scan.times(num_heads)
        if theirs is not layers[-1] or stage not in LAYERWISE:
            total += linear_operations(num_rows, behind)
        inherited = mixer.vkq_proj.weight.numel()
        new = mixer.in_proj.weight.numel() + mixer.g_proj.weight.numel()
        has_input_gradient = stage not in LAYERWISE and ours is not mixers[0]
        total += linear_operations(num_rows, inherited).times(1 + (stage > 1) + has_input_gradient)
        total += linear_operations(num_rows, new).times(2 + has_input_gradient)
        if stage not in LAYERWISE:
            # frozen: forward, and the gradient by the input
            total += linear_operations(num_rows, behind).times(2)
    if stage not in LAYERWISE:
        decoder = teacher.config.decoders[-1]
        # of the positions of the loss; the student's have a gradient
        num_rows = int(loss_mask(batch, Recipe().loss_mask).sum())
        total += linear_operations(num_rows, decoder.vocab_size * decoder.hidden_size).times(3)
    return total


def _num_weights(module: nn.Module) -> int:
    """Number of weights in the matrices that multiply every row."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
