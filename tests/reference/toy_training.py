"""A training of a moment, with everything that a checkpoint holds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.core.train.loop import TrainConfig, fit
from lab.core.train.optim import adamw
from lab.core.train.state import TrainingState


class Rows:
    """An endless source of batches that counts."""

    def __init__(self) -> None:
        self.position = 0

    @property
    def state(self) -> dict[str, int]:
        return {"position": self.position}

    def restore(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def next(self) -> Tensor:
        self.position += 1
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(self.position))


class Toy:
    """A small regression whose loss is noisy, as with dropout; the noise is derived from the position in the data."""

    def __init__(self, *, noise: float = 0.1) -> None:
        self.model = nn.Linear(3, 2)
        with torch.no_grad():
            self.model.weight.fill_(0.5)
            self.model.bias.zero_()
        self.data = Rows()
        self.noise = noise
        self.rows: list[dict[str, Any]] = []
        tensors = dict(self.model.named_parameters())
        optimizer = adamw(tensors, learning_rate=0.1, weight_decay=0.05, betas=(0.9, 0.999))
        self.state = TrainingState(tensors=tensors, optimizer=optimizer, data=self.data)

    def loss(self, x: Tensor) -> Tensor:
        target = torch.stack([x.sum(dim=1), x[:, 0]], dim=1)
        noise = torch.randn(2, generator=torch.Generator().manual_seed(1000 + self.data.position))
        loss: Tensor = (self.model(x) - target + self.noise * noise).square().mean()
        return loss

    def step(self, *, scale: float) -> Mapping[str, float]:
        loss = self.loss(self.data.next())
        torch.autograd.backward(scale * loss)
        return {"loss": float(loss.detach()), "tokens": 8}

    def validate(self) -> float:
        with torch.no_grad():
            x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
            return float((self.model(x)[:, 1] - x[:, 0]).square().mean())

    def fit(self, folder: Path, config: TrainConfig, step: Callable[..., Mapping[str, float]] | None = None) -> None:
        fit(
            self.state,
            step or self.step,
            config,
            name="stage_1",
            folder=folder,
            validate=self.validate,
            log=self.rows.append,
        )

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
