"""How a process finds out that it is one of several, and refusals of those that cannot be."""

import os

import pytest

from lab.core.errors import ConfigError
from lab.core.parallel.config import Frozen, ParallelConfig, Strategy, refuse_unasked, refuse_uneven
from lab.core.parallel.launched import launched

TORCHRUN = {
    "WORLD_SIZE": "8",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "2000",
    "TORCHELASTIC_RUN_ID": "a name",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "MASTER_ADDR": "h", "MASTER_PORT": "7"}


def test_torchrun_and_srun_say_which_process_it_is() -> None:
    here = launched(TORCHRUN)
    assert here is not None
    assert (here.rank, here.size, here.local_rank, here.local_size) == (5, 8, 1, 4)
    assert (here.address, here.port, here.has_agent, here.name, here.attempt) == ("host", 2000, True, "a name", 2)
    step = launched(SRUN)
    assert step is not None
    assert (step.rank, step.size, step.local_rank, step.has_agent, step.name) == (1, 2, 0, False, None)


def test_one_process_is_none_of_several() -> None:
    assert launched({}) is None
    assert launched({"WORLD_SIZE": "1", "RANK": "0", "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_a_run_without_a_name_has_that_of_its_parent_on_one_machine_only() -> None:
    nameless = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}
    here, there = launched(nameless), launched({**nameless, "GROUP_WORLD_SIZE": "2"})
    assert here is not None
    assert there is not None
    assert here.name is not None
    assert here.name.startswith(f"{os.getppid()}-")
    assert there.name is None


def test_several_processes_that_nobody_asked_for_are_refused() -> None:
    ddp = ParallelConfig(strategy=Strategy.ddp)
    refuse_unasked(ParallelConfig(), None)
    refuse_unasked(ddp, launched(TORCHRUN))
    with pytest.raises(ConfigError, match=r"WORLD_SIZE=8: .*parallel\.strategy=ddp or fsdp"):
        refuse_unasked(ParallelConfig(), launched(TORCHRUN))
    for found in ({"OMPI_COMM_WORLD_SIZE": "2"}, {**SRUN, "MASTER_PORT": ""}):
        with pytest.raises(ConfigError, match="cannot find each other"):
            refuse_unasked(ddp, launched(found))


def test_what_cannot_be_shared_is_refused() -> None:
    refuse_uneven("stage_1", 6, 3)
    with pytest.raises(ConfigError, match=r"stage_1\.accumulation=6 .* 4 processes; .* such as 8"):
        refuse_uneven("stage_1", 6, 4)
    with pytest.raises(ConfigError, match=r"parallel\.frozen=sharded"):
        ParallelConfig(strategy=Strategy.ddp, frozen=Frozen.sharded)
    with pytest.raises(ConfigError, match=r"timeout=0"):
        ParallelConfig(timeout=0)
