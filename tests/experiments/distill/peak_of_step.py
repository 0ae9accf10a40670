"""Print the estimated and the measured bytes of a step of each kind: `python peak_of_step.py OVERRIDE…`.

What is loaded and checked before, the teacher's weights among it, counts in neither.
"""

import json
import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_module

from lab.core.hydra_schema import to_typed
from lab.core.products import current
from lab.experiments.distill.config import DistillConfig, register
from lab.experiments.distill.estimate import long_samples, steps
from lab.experiments.distill.job import execute, open_context


def peak() -> int:
    """The largest resident memory so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """One run of one step."""
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=sys.argv[1:])
    settings = to_typed(config, DistillConfig)
    context = open_context(settings, None)
    samples = long_samples(settings, context.data)
    estimated = max(step.num_bytes for step in steps(settings, context.teacher.config, *samples))
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        execute(config, Path(folder) / "run", [])
    print(json.dumps([estimated, peak() - before]))


if __name__ == "__main__":
    current.recall_or_measure = lambda *arguments: current.only(current.TORCH)
    main()
