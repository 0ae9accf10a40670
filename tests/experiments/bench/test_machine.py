"""The machine of a benchmark: its cores, its clocks, and what is installed on it."""

import math
import os
import subprocess
import sys
import time

import pytest
import torch

from lab.core.resources import usable_cores
from lab.experiments.bench.machine import (
    ONE_THREAD,
    busy_seconds,
    event_clock,
    every_core,
    load_optional,
    one_core,
    own_seconds,
)


def test_one_core_is_bound_and_everything_is_restored() -> None:
    before_environment = {name: os.environ.get(name) for name in ONE_THREAD}
    before_cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with one_core():
        assert os.environ["OMP_NUM_THREADS"] == "1"
        if before_cores is not None:
            assert len(os.sched_getaffinity(0)) == 1
    assert {name: os.environ.get(name) for name in ONE_THREAD} == before_environment
    if before_cores is not None:
        assert os.sched_getaffinity(0) == before_cores


def test_every_core_has_a_thread_and_everything_is_restored() -> None:
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    with every_core():
        assert torch.get_num_threads() == usable_cores()
        assert os.environ["OMP_NUM_THREADS"] == str(usable_cores())
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before


@pytest.mark.skipif(math.isnan(busy_seconds()), reason="reads Linux's account of processor time")
def test_work_of_this_process_is_seen_in_that_of_the_machine() -> None:
    before = busy_seconds()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    # the account is in hundredths of a second
    assert busy_seconds() - before >= 0.08


@pytest.mark.skipif(math.isnan(own_seconds()), reason="reads Linux's account of processor time")
def test_work_of_processes_below_this_one_is_its_own_before_and_after_their_end() -> None:
    work = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    before = own_seconds()
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        working = own_seconds()
        assert working - before >= 0.18
        process.communicate(b"\n")
    assert own_seconds() >= working


@pytest.mark.gpu
def test_the_event_clock_takes_no_longer_than_a_wait_for_the_device() -> None:
    matrix = torch.ones(4096, 4096, device="cuda")

    def product() -> torch.Tensor:
        return matrix @ matrix

    event_clock(product, 3)
    torch.cuda.synchronize()
    started = time.perf_counter()
    found = event_clock(product, 20)
    assert 0 < found <= time.perf_counter() - started


def test_modules_that_are_not_installed_are_none() -> None:
    assert load_optional("no_such_module.at_all") is None
    assert load_optional("math") is math
