"""Operations of the benchmarks' calls: as executed by our compiled loops, and as papers count them.

A multiply-add is two operations. Only matrix products are counted: exponentials, scaling and packing are work too, but
of lower order. As executed means the pairs of a chunk's tokens that the loops need, those on and below the diagonal;
what a register tile computes above it is not counted, so that a share of the peak is not raised by waste.
"""

# Letters: T tokens, H heads, Q tokens of a chunk, K and N key or state dimension, V and P value or head dimension.

from dataclasses import dataclass

from lab.core.delta_rule.chunked import native as delta_rule_loops
from lab.core.ssd.chunked import native as ssd_loops

# chunk size of the paper's counting, whatever an implementation uses
COUNTED_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations of a call.

    Attributes:
        paper: as papers count them.
        executed: as our compiled loops and the library products around them execute them.
    """

    paper: float
    executed: float

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.paper + other.paper, self.executed + other.executed)

    def times(self, count: float) -> "Operations":
        """The operations of this many such calls."""
        return Operations(count * self.paper, count * self.executed)


@dataclass(frozen=True, slots=True)
class Chunks:
    """A sequence in chunks.

    Attributes:
        num_tokens: T.
        pairs: of a token and itself or an earlier one of its chunk.
        earlier: of a token and an earlier one of its chunk.
        before_last: tokens of all chunks but the last.
    """

    num_tokens: int
    pairs: int
    earlier: int
    before_last: int

    @classmethod
    def of(cls, num_tokens: int, size: int) -> "Chunks":
        """Chunks of `size` tokens, the last one shorter where they do not fill it."""
        num_whole, rest = divmod(num_tokens, size)
        pairs = num_whole * size * (size + 1) // 2 + rest * (rest + 1) // 2
        before_last = num_tokens - (rest or min(size, num_tokens))
        return cls(num_tokens, pairs, pairs - num_tokens, before_last)


def scan_operations(num_tokens: int, head_dim: int, state_dim: int, *, has_backward: bool) -> Operations:
    """One head of the state-space operator on one sequence.

    Paper: 2 Q (N + P) + 4 N P per token with chunks of Q = 64: the scores C B' and their product with x (in full
    squares), the chunk's state, and the output from the state before it; a backward takes twice that, one product for
    each factor.

    Executed, in multiply-adds, with the chunk sizes of the loops:
        forward: pairs (N + P) for scores and their product with x; 2 T N P for the states and what is read of them.
        backward: N P for every token but the last chunk's, to recompute states; pairs (N + P) for C B' and dy x';
            pairs P for dx, pairs N each for dB and dC; 4 T N P for what dx, dB and dC get through a state and for the
            gradient of the state.
    """
    p, n = head_dim, state_dim
    paper = float(num_tokens) * (2 * COUNTED_CHUNK * (n + p) + 4 * n * p)
    forward = Chunks.of(num_tokens, ssd_loops.FORWARD_CHUNK)
    executed = 2.0 * (forward.pairs * (n + p) + 2 * num_tokens * n * p)
    if not has_backward:
        return Operations(paper, executed)
    backward = Chunks.of(num_tokens, ssd_loops.BACKWARD_CHUNK)
    executed += 2.0 * (backward.before_last * n * p + backward.pairs * (3 * n + 2 * p) + 4 * num_tokens * n * p)
    return Operations(3 * paper, executed)


def delta_rule_operations(num_tokens: int, key_dim: int, value_dim: int, *, has_backward: bool) -> Operations:
    """One head of the gated delta rule on one sequence.

    Paper (chunks of Q = 64, as in DeltaNet's WY form, arXiv 2406.06484): 2 Q (3 K + 2 V) + 6 K V per token: k k', q k',
    the two factors W and U and the chunk's output in full squares; W S, q S and the chunk's state. The inverse of a
    triangle is not counted; a backward takes twice the forward.

    Executed, in multiply-adds, with "pairs" on and "earlier" below the diagonal, and the chunk sizes of the loops:
        forward: K (earlier + pairs) for k k' and q k'; V (earlier + pairs) for the solution and for what it adds to the
            output; 3 T K V for what k and q read of the state and for the next state.
        backward: K earlier + V earlier + T K V, and K V for every token but the last chunk's, to recompute solutions
            and states; K (earlier + pairs) for k k' and q k'; V (earlier + pairs) for du and dv, and the same for the
            two products of dy and dv with u; K (2 pairs + 2 earlier) for dq and dk; 6 T K V through the state: one for
            du, one for dq, two for dk, two for the gradient of the state.
    """
    k, v = key_dim, value_dim
    paper = float(num_tokens) * (2 * COUNTED_CHUNK * (3 * k + 2 * v) + 6 * k * v)
    forward = Chunks.of(num_tokens, delta_rule_loops.FORWARD_CHUNK)
    executed = 2.0 * ((k + v) * (forward.earlier + forward.pairs) + 3 * num_tokens * k * v)
    if not has_backward:
        return Operations(paper, executed)
    chunks = Chunks.of(num_tokens, delta_rule_loops.BACKWARD_CHUNK)
    recomputed = (k + v) * chunks.earlier + (num_tokens + chunks.before_last) * k * v
    inside = (3 * k + 2 * v) * chunks.pairs + (3 * k + 2 * v) * chunks.earlier
    executed += 2.0 * (recomputed + inside + 6 * num_tokens * k * v)
    return Operations(3 * paper, executed)


def attention_operations(num_tokens: int, head_dim: int, value_dim: int) -> Operations:
    """One head of causal softmax attention, forward: 2 (P + V) for each token and itself or an earlier one."""
    flops = float(num_tokens * (num_tokens + 1) * (head_dim + value_dim))
    return Operations(flops, flops)


def linear_operations(num_rows: int, num_weights: int) -> Operations:
    """A linear layer's product, or its gradient by one factor: two operations for each row and weight."""
    flops = 2.0 * num_rows * num_weights
    return Operations(flops, flops)
