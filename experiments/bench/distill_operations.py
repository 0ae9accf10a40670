"""Operations of one step of stage 1, from the sizes of the teacher's layers and the student's mixers."""

# Letters: B batch, T tokens, H heads, P head_dim.

from torch import nn

from lab.core.mixers.mamba2 import Mamba2
from lab.core.mixers.softmax import SoftmaxAttention
from lab.experiments.bench.distill_problem import StageOne
from lab.experiments.bench.operations import (
    Operations,
    attention_operations,
    linear_operations,
    scan_operations,
)
from lab.experiments.distill.loss_mask import inputs_of


def step_operations(problem: StageOne) -> Operations:
    """Layers only: embeddings of pictures and tokens are a small part, and there are no logits in stage 1.

    The teacher runs forward, its last layer up to the head outputs. A mixer's v, k and q are projected forward only,
    since that projection is frozen and its input has no gradient; its step sizes and gate are projected and their
    weights have a gradient; the state-space operator runs forward and backward.
    """
    inputs = inputs_of(problem.teacher, problem.batch)
    num_sequences = inputs.tokens.shape[0]
    lengths = problem.teacher.layer_lengths(inputs)
    layers = problem.teacher.mixer_layers()
    total = Operations(0.0, 0.0)
    for num_tokens, theirs, ours in zip(lengths, layers, problem.student.mixer_layers(), strict=True):
        attention, mixer = theirs.layer.mixer, ours.layer.mixer
        assert isinstance(attention, SoftmaxAttention), "a teacher has no other"
        assert isinstance(mixer, Mamba2), "the student of this benchmark"
        shape, num_rows = attention.shape, num_sequences * num_tokens
        num_heads = num_sequences * shape.num_heads
        total += linear_operations(num_rows, attention.wqkv.weight.numel())
        total += attention_operations(num_tokens, shape.head_dim, shape.head_dim).times(num_heads)
        if theirs is not layers[-1]:
            total += linear_operations(num_rows, attention.wo.weight.numel() + _num_weights(theirs.layer.mlp))
        total += linear_operations(num_rows, mixer.vkq_proj.weight.numel())
        trained = mixer.in_proj.weight.numel() + mixer.g_proj.weight.numel()
        total += linear_operations(num_rows, trained).times(2)
        scan = scan_operations(num_tokens, shape.head_dim, shape.head_dim, has_backward=True)
        total += scan.times(num_heads)
    return total


def _num_weights(module: nn.Module) -> int:
    """Number of weights in the matrices that multiply every row."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
