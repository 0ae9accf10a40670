"""The map of each token between two mixers."""

# Letters: B batch, D model width.

from jaxtyping import Float
from torch import Tensor, nn

from lab.core.decoding.writer import Writer, refuse_another
from lab.core.fused.silu_product import silu_product
from lab.core.mixers.norm import RmsNorm
from lab.core.products.linear import Linear


class SwiGlu(nn.Module):
    """W_down (silu(W_gate x) * W_up x) (Shazeer, arXiv 2002.05202), with or without biases."""

    def __init__(self, width: int, hidden_width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate = Linear(width, hidden_width, bias=bias)
        self.up = Linear(width, hidden_width, bias=bias)
        self.down = Linear(hidden_width, width, bias=bias)

    def forward(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """The map of each token on its own."""
        return self.down(silu_product(self.gate(x), self.up(x)))

    def write_step(self, writer: Writer, x: Float[Tensor, "B D"], norm: RmsNorm) -> None:
        """Append this map of the normed `x` to a program, added to `x`."""
        refuse_another(self, SwiGlu)
        hidden = writer.swiglu(writer.normed(x, norm), self.gate, self.up, "hidden")
        writer.linear(hidden, self.down, "", added_to=x)
