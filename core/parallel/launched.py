"""How this process was started: alone, or as one of several by torchrun or in a step of srun."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# how many processes were started together: by torchrun, in a step of srun, by the mpiruns
_OF_SRUN = "SLURM_STEP_NUM_TASKS"
_COUNTS = ("WORLD_SIZE", _OF_SRUN, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# what torchrun calls a run that was given no name
_NAMELESS = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """One of several processes that were started together.

    Attributes:
        rank: its number, from 0.
        size: number of processes.
        local_rank: its number on this machine.
        local_size: processes on this machine.
        address: host of the store in which the processes find each other; None if nobody named one.
        port: of the store.
        has_agent: whether torchrun holds the store; else the first process does.
        name: of the run, the same in all processes and after a restart; None if there is none.
        attempt: how often torchrun has restarted the processes.
        by: the variable that says how many there are.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str | None = None
    port: int = 0
    has_agent: bool = False
    name: str | None = None
    attempt: int = 0
    by: str = "WORLD_SIZE"

    @property
    def is_step(self) -> bool:
        """Whether srun started them: it signals all of them, and may give each its own GPU."""
        return self.by == _OF_SRUN


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """What the environment says about this process; None if it was started alone."""
    for by in _COUNTS:
        size = _number(environment, by)
        if size > 1:
            names = _NAMES.get(by, _NAMES["WORLD_SIZE"])
            rank, local_rank = (_number(environment, name) for name in names[:2])
            has_agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            return Launched(
                rank=rank,
                size=size,
                local_rank=local_rank,
                local_size=_number(environment, names[2]) or 1,
                address=environment.get("MASTER_ADDR") if by in _NAMES else None,
                port=_number(environment, "MASTER_PORT"),
                has_agent=has_agent,
                name=_name(environment),
                attempt=_number(environment, "TORCHELASTIC_RESTART_COUNT"),
                by=by,
            )
    return None


# rank, rank on the machine, number on the machine
_NAMES = {
    "WORLD_SIZE": ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _OF_SRUN: ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}


def _number(environment: Mapping[str, str], name: str) -> int:
    # of processes on each machine, Slurm writes 8(x2)
    found = re.fullmatch(r"(\d+)(\(x\d+\))?", environment.get(name, ""))
    return int(found[1]) if found else 0


def _name(environment: Mapping[str, str]) -> str | None:
    """The name that torchrun gives a run; without one, on one machine, its process."""
    given = environment.get("TORCHELASTIC_RUN_ID")
    if given is None or given != _NAMELESS:
        return given
    if _number(environment, "GROUP_WORLD_SIZE") > 1:
        return None
    parent = os.getppid()
    with open(f"/proc/{parent}/stat") as file:
        # in clock ticks since the machine was started
        begun = file.read().rpartition(")")[2].split()[19]
    return f"{parent}-{begun}"
