"""Counts of operations: the formulas against loops that count every multiply-add one by one."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lab.core.delta_rule.chunked import native as delta_rule_loops
from lab.core.models.decoder import LanguageModel
from lab.core.ssd.chunked import native as ssd_loops
from lab.experiments.bench import operations
from lab.experiments.bench.distill_problem import StageOne, StepSetting
from lab.experiments.bench.operations import attention_operations, delta_rule_operations, scan_operations
from lab.experiments.bench.train_operations import training_operations
from lab.experiments.distill.loss_mask import hidden_states

# none, a whole chunk, whole chunks, and chunks with a rest, of every size that the loops have
LENGTHS = [1, 31, 32, 33, 48, 64, 96, 100, 129]


def chunks(num_tokens: int, size: int) -> Iterator[tuple[range, bool]]:
    """The tokens of each chunk, and whether it is the last."""
    for start in range(0, num_tokens, size):
        yield range(start, min(start + size, num_tokens)), start + size >= num_tokens


def pairs(tokens: range) -> int:
    return sum(j <= i for i in tokens for j in tokens)


def earlier(tokens: range) -> int:
    return sum(j < i for i in tokens for j in tokens)


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_the_scan_counts_what_the_loops_multiply(num_tokens: int) -> None:
    p, n = 3, 5
    forward = 0
    for tokens, _ in chunks(num_tokens, ssd_loops.FORWARD_CHUNK):
        forward += n * pairs(tokens)  # C_i.B_j
        forward += n * p * len(tokens)  # C_i.h
        forward += p * pairs(tokens)  # sum_j mixing_ij x_j
        forward += n * p * len(tokens)  # h + sum_j B_j x_j'
    assert scan_operations(num_tokens, p, n, has_backward=False).executed == 2 * forward
    backward = 0
    for tokens, is_last in chunks(num_tokens, ssd_loops.BACKWARD_CHUNK):
        if not is_last:
            backward += n * p * len(tokens)  # the next state, again
        backward += n * pairs(tokens) + p * pairs(tokens)  # C_i.B_j and dy_i.x_j
        backward += n * p * len(tokens) + p * pairs(tokens)  # dx: dh B_j, mixing
        backward += n * p * len(tokens) + n * pairs(tokens)  # dB: dh' x_j, weights
        backward += n * p * len(tokens) + n * pairs(tokens)  # dC: h' dy_i, weights
        backward += n * p * len(tokens)  # dh
    assert scan_operations(num_tokens, p, n, has_backward=True).executed == 2 * (forward + backward)


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_the_delta_rule_counts_what_the_loops_multiply(num_tokens: int) -> None:
    k, v = 3, 5
    forward = 0
    for tokens, _ in chunks(num_tokens, delta_rule_loops.FORWARD_CHUNK):
        forward += k * earlier(tokens) + k * pairs(tokens)  # k_i.k_j, q_i.k_j
        forward += k * v * len(tokens) + v * earlier(tokens)  # S' k_i, the triangular system
        forward += k * v * len(tokens) + v * pairs(tokens)  # S' q_i, sum_j mixing_ij u_j
        forward += k * v * len(tokens)  # S + sum_j k_j u_j'
    assert delta_rule_operations(num_tokens, k, v, has_backward=False).executed == 2 * forward
    backward = 0
    for tokens, is_last in chunks(num_tokens, delta_rule_loops.BACKWARD_CHUNK):
        # x of every token and the next state, again
        backward += k * earlier(tokens) + k * v * len(tokens) + v * earlier(tokens)
        if not is_last:
            backward += k * v * len(tokens)
        backward += k * earlier(tokens) + k * pairs(tokens)  # k_i.k_j, q_i.k_j
        backward += k * v * len(tokens) + v * pairs(tokens) + v * earlier(tokens)  # du, the transposed system
        backward += v * pairs(tokens) + v * earlier(tokens)  # dy_i.u_j, dv_i.u_j
        backward += k * v * len(tokens) + k * pairs(tokens)  # dq
        backward += 2 * k * v * len(tokens) + k * pairs(tokens) + 2 * k * earlier(tokens)  # dk
        backward += 2 * k * v * len(tokens)  # dS
    assert delta_rule_operations(num_tokens, k, v, has_backward=True).executed == 2 * (forward + backward)


def test_the_paper_counts_chunks_of_64() -> None:
    # 2 Q (N + P) + 4 N P
    assert scan_operations(32_768, 128, 128, has_backward=False).paper == 98_304 * 32_768
    assert scan_operations(32_768, 128, 128, has_backward=True).paper == 3 * 98_304 * 32_768
    # 2 Q (3 K + 2 V) + 6 K V
    assert delta_rule_operations(10, 128, 128, has_backward=False).paper == 180_224 * 10
    assert delta_rule_operations(10, 128, 128, has_backward=True).paper == 3 * 180_224 * 10


def test_attention_counts_the_pairs_of_a_token_and_an_earlier_one_or_itself() -> None:
    assert attention_operations(70, 8, 4).paper == 2 * (8 + 4) * pairs(range(70))


def linear_flops(model: LanguageModel, problem: StageOne) -> int:
    """Operations of the linear layers of a forward, as torch counts them while it runs."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        hidden_states(model, problem.batch)
    found = counter.get_flop_counts()["Global"]
    return sum(flops for operator, flops in found.items() if "mm" in str(operator))


def test_a_step_counts_the_linear_layers_that_torch_counts() -> None:
    problem = StageOne.of(StepSetting(teacher="hovle_tiny", num_layers=3, batch_size=2, num_tokens=70))
    rows, shape = 140, problem.teacher.mixer_layers()[0].layer.mixer.shape
    scan = scan_operations(70, shape.head_dim, shape.head_dim, has_backward=True).times(2 * shape.num_heads * 3)
    attention = attention_operations(70, shape.head_dim, shape.head_dim).times(2 * shape.num_heads * 3)
    # the teacher's forward without the last layer's output projection and feed-forward network
    last = problem.teacher.mixer_layers()[-1].layer
    unused = sum(layer.weight.numel() for layer in last.mlp.modules() if isinstance(layer, nn.Linear))
    unused += shape.num_heads * shape.head_dim * shape.hidden_size
    teacher = linear_flops(problem.teacher, problem) - 2 * rows * unused
    # the student's projections: forward, and the gradients of those that are trained
    width = shape.num_heads * shape.head_dim
    trained = 3 * shape.hidden_size * (width + shape.num_heads)
    projected = 3 * shape.hidden_size * (width + 2 * shape.num_kv_heads * shape.head_dim)
    student = 2 * rows * (projected + 2 * trained)
    found = training_operations(1, problem.teacher, problem.student, problem.batch)
    assert found.executed == scan.executed + attention.executed + teacher + student
    assert found.paper == scan.paper + attention.paper + teacher + student


def test_operations_add_up() -> None:
    total = operations.linear_operations(3, 4) + operations.Operations(1.0, 2.0).times(2)
    assert total == operations.Operations(26.0, 28.0)
