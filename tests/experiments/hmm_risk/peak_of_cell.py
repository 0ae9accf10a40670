"""Print the estimated and the measured bytes of the first cell of a sweep: `python peak_of_cell.py OVERRIDE…`."""

import json
import sys
from importlib import import_module
from pathlib import Path

from hydra import compose, initialize_config_module

from lab.core.hydra_schema import to_typed
from lab.experiments.hmm_risk.config import HmmRiskConfig, register
from lab.experiments.hmm_risk.estimate import work_bytes
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.pool import WorkerState
from lab.experiments.hmm_risk.units import Unit


def peak() -> int:
    """The largest resident memory so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Theory and one draw."""
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        cells = expand(to_typed(compose("hmm_risk", overrides=sys.argv[1:]), HmmRiskConfig))
    for name in ("scipy.linalg", "scipy.optimize", *(["torch"] if cells[0].is_discrete else [])):
        import_module(name)
    before = peak()
    worker = WorkerState(cells)
    worker.run(Unit(0, with_theory=True))
    worker.run(Unit(0, replicates=(0,)))
    print(json.dumps([work_bytes(cells[0]), peak() - before]))


if __name__ == "__main__":
    main()
