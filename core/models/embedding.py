"""A vector for each token."""

from torch import nn


class Embedding(nn.Embedding):
    """torch's; on the meta device, where values have no memory, none are drawn."""

    def reset_parameters(self) -> None:
        """Draw initial values: for a tensor without memory torch would load its compiler, which takes seconds."""
        if not self.weight.is_meta:
            super().reset_parameters()
