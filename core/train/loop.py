"""One training loop for every stage. A step is an optimizer step, whatever the gradient accumulation."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from lab.core.errors import ConfigError, RunError
from lab.core.ranges import LARGEST_COUNT, refuse_outside
from lab.core.train.interruption import Interruption
from lab.core.train.optim import clip_gradients, warmup_stable_decay
from lab.core.train.state import TrainingState


class TrainedStep(TypedDict):
    """One optimizer step.

    Attributes:
        step: optimizer steps done, this one included.
        metrics: what `Step` returned; `tokens` is summed over the step's batches, the others are averaged.
        learning_rate: of this step.
        gradient_norm: the Euclidean norm over all trained tensors, before clipping.
        seconds: wall time of the step.
    """

    kind: Literal["train"]
    step: int
    metrics: dict[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float


class Validation(TypedDict):
    """A validation.

    Attributes:
        step: optimizer steps done.
        loss: on held-out data, in the unit of the training loss.
    """

    kind: Literal["validation"]
    step: int
    loss: float


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Number of steps, learning-rate schedule, and how often to validate, log and save."""

    steps: int = 100
    """Optimizer steps."""
    batch_size: int = 32
    """Samples of a batch."""
    accumulation: int = 1
    """Batches per optimizer step, of all processes together; gradients are averaged over them."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup: float = 0.1
    """Fraction of the steps over which the learning rate rises."""
    decay: float = 0.1
    """Fraction of the steps, at the end, over which it falls to zero."""
    weight_decay: float = 0.05
    """Weight decay of matrices; norms, biases, decay rates and step sizes have none."""
    beta1: float = 0.9
    """AdamW: decay of the mean of the gradients."""
    beta2: float = 0.999
    """AdamW: decay of the mean of their squares."""
    gradient_clip: float = 5.0
    """Maximum gradient norm."""
    autocast: bool = False
    """Whether matrix products run in bfloat16; trained weights and accumulations are in float32. A teacher in bfloat16
    needs it."""
    log_every: int = 1
    """Steps between recorded rows."""
    evaluate_every: int = 100
    """Steps between validation losses; one more follows the last step."""
    checkpoint_every: int = 100
    """Steps between checkpoints, from which a run is resumed."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulation", "log_every", "evaluate_every", "checkpoint_every")
        refuse_outside(self, *counts, at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "learning_rate", at_least=1e-12, at_most=1e6)
        refuse_outside(self, "gradient_clip", at_least=1e-9, at_most=1e9)
        refuse_outside(self, "weight_decay", at_least=0, at_most=1e3)
        refuse_outside(self, "beta1", "beta2", at_least=0, below=1)
        refuse_outside(self, "warmup", "decay", at_least=0, at_most=1)
        if self.warmup + self.decay > 1:
            raise ConfigError(
                f"warmup={self.warmup} and decay={self.decay} must be fractions whose sum is at most 1; lower one"
            )


class Step(Protocol):
    """Forward and backward of the next batch."""

    def __call__(self, *, scale: float) -> Mapping[str, float]:
        """Accumulate `scale` times the gradient of the loss.

        Returns:
            Metrics of this batch, including `loss`; `tokens` is summed over batches, the others are averaged.
        """
        ...


def fit(
    state: TrainingState,
    step: Step,
    config: TrainConfig,
    *,
    name: str,
    folder: Path,
    validate: Callable[[], float],
    log: Callable[[TrainedStep | Validation], None],
) -> None:
    """Train from the current `state` to `config.steps`.

    A signal that ends a run is answered after the current step, with a checkpoint. Where several processes train
    (`state.layout`), each calls this with its share of the batches; all do the same steps, and the first one answers
    signals.

    Args:
        state: the training state; if `folder` has checkpoints, it must match the newest.
        step: forward and backward.
        config: the schedule.
        name: of the configuration block, for errors.
        folder: where checkpoints are written.
        validate: returns the loss on held-out data, the same in all processes.
        log: receives each step and validation at once; a step is logged before its checkpoint is written.

    Raises:
        RunError: if a loss or gradient is not finite; the weights are still those before the step.
        KeyboardInterrupt: after a signal, unless a handler that was there before returns: training goes on then.
    """
    ranks = state.layout.ranks
    with Interruption(is_on=ranks.is_first, is_in_vain=ranks.has_lost) as interruption, state.writing():
        if state.step == 0 and state.best_loss is None:
            loss = ranks.gathered(validate())[0]
            log({"kind": "validation", "step": 0, "loss": loss})
            state.note_validation(loss)
            # save the start: its source may be gone when this run is resumed
            state.save(folder)
        while state.step < config.steps:
            trained = _one_step(state, step, config, name)
            is_last = state.step == config.steps
            if state.step % config.log_every == 0 or is_last:
                log(trained)
            is_best = False
            if state.step % config.evaluate_every == 0 or is_last:
                loss = ranks.gathered(validate())[0]
                log({"kind": "validation", "step": state.step, "loss": loss})
                is_best = state.note_validation(loss)
            is_requested = ranks.gathered(interruption.is_requested)[0]
            if is_best or is_last or is_requested or state.step % config.checkpoint_every == 0:
                state.save(folder)
            # a signal that has come since then waits for a checkpoint too
            if is_last or is_requested:
                state.finish_writing()
                ranks.of_first(interruption.pass_on)


def _one_step(state: TrainingState, step: Step, config: TrainConfig, name: str) -> TrainedStep:
    start = time.perf_counter()
    factor = warmup_stable_decay(state.step, steps=config.steps, warmup=config.warmup, decay=config.decay)
    learning_rate = factor * config.learning_rate
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.zero_grad(set_to_none=True)
    layout = state.layout
    batches = [step(scale=1 / config.accumulation) for _ in range(layout.ranks.share(config.accumulation))]
    sums = _summed([batch for share in layout.ranks.gathered(batches) for batch in share])
    metrics = {key: value if key == "tokens" else value / config.accumulation for key, value in sums.items()}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    layout.finish_gradients(parameters)
    norm = clip_gradients(parameters, config.gradient_clip)
    if not math.isfinite(metrics["loss"]) or not math.isfinite(norm):
        raise RunError(
            f"{name}, step {state.step + 1}: the loss is {metrics['loss']:g} and its gradient's norm {norm:g}; lower "
            f"{name}.learning_rate={config.learning_rate:g}, or look for damaged data"
        )
    state.optimizer.step()
    state.step += 1
    return {
        "kind": "train",
        "step": state.step,
        "metrics": metrics,
        "learning_rate": learning_rate,
        "gradient_norm": norm,
        "seconds": time.perf_counter() - start,
    }


def _summed(batches: Sequence[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for batch in batches:
        for key, value in batch.items():
            sums[key] = sums.get(key, 0.0) + value
    return sums
