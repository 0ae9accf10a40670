"""How a training stands, in a few words: beside its progress bar, or in a line of a job's output."""

import resource
import sys

import torch

from lab.core.train.loop import TrainedStep, Validation

_GIGA = 1e9
# getrusage counts in kilobytes, on macOS in bytes
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Standing:
    """The words about a training on a device, from what its loop logs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._validation = ""
        self._step = ""

    def of(self, done: TrainedStep | Validation, num_left_out: int) -> str:
        """Loss, learning rate, tokens a second, samples left out, and the peak of memory so far."""
        if done["kind"] == "validation":
            self._validation = f"validation {done['loss']:.3g}"
        else:
            rate = done["metrics"]["tokens"] / max(done["seconds"], 1e-9)
            self._step = (
                f"loss {done['metrics']['loss']:.3g}, learning rate {done['learning_rate']:.2g}, {rate:,.0f} tokens/s"
            )
        left_out = f"{num_left_out:,} samples left out" if num_left_out else ""
        return ", ".join(part for part in (self._step, self._validation, left_out, self._memory()) if part)

    def _memory(self) -> str:
        if self._device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self._device) / _GIGA:.1f} GB on the GPU"
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / _GIGA:.1f} GB"
