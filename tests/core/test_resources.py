"""What this machine has left, read from files that a test writes."""

import os
from pathlib import Path

import pytest

from lab.core import resources
from lab.core.errors import ConfigError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GB and no limits."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "job" / "step").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/job/step\n")
    monkeypatch.setattr(resources, "_PROC", proc)
    monkeypatch.setattr(resources, "_CONTROL_GROUPS", groups)
    return tmp_path


def test_available_memory_is_the_machines(machine: Path) -> None:
    assert resources.available_memory() == 8_192_000_000


def test_the_narrowest_group_above_a_process_limits_it(machine: Path) -> None:
    job, step = machine / "cgroup" / "job", machine / "cgroup" / "job" / "step"
    (step / "memory.max").write_text("max\n")
    (step / "memory.current").write_text("500\n")
    (job / "memory.max").write_text("3000\n")
    (job / "memory.current").write_text("1000\n")
    # cached files make room
    (job / "memory.stat").write_text("anon 600\ninactive_file 400\n")
    assert resources.available_memory() == 2400


def test_groups_of_the_first_version_count_too(machine: Path) -> None:
    (machine / "proc" / "self" / "cgroup").write_text("4:cpu,memory:/job\n1:name=systemd:/\n")
    job = machine / "cgroup" / "memory" / "job"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text("3000\n")
    (job / "memory.usage_in_bytes").write_text("1000\n")
    assert resources.available_memory() == 2000


def test_nothing_is_refused_where_nothing_is_known(machine: Path) -> None:
    (machine / "proc" / "meminfo").unlink()
    (machine / "proc" / "self" / "cgroup").unlink()
    assert resources.available_memory() is None
    resources.refuse_too_large(1e30, "x=1", "lower x")


def test_what_does_not_fit_is_refused_with_both_numbers(machine: Path) -> None:
    with pytest.raises(ConfigError, match=r"x=1: needs about 41 GB of memory, 8\.19 GB are free; lower x"):
        resources.refuse_too_large(41e9, "x=1", "lower x")


def test_threads_are_at_most_the_cores() -> None:
    resources.refuse_too_many_threads(None)
    resources.refuse_too_many_threads(resources.usable_cores())
    with pytest.raises(ConfigError, match="threads=100000 must be at most"):
        resources.refuse_too_many_threads(100_000)


def test_processes_of_one_parent_count_what_all_of_them_hold(machine: Path) -> None:
    """8.192 GB are free, and this process and one of the three others hold 3 and 5 GB that are theirs."""
    parent, command = os.getppid(), b"lab\0distill\0"
    (machine / "proc" / "self" / "cmdline").write_bytes(command)
    for process, started_by, words, held in (
        (11, parent, command, 3_000_000),
        (12, parent, command, 5_000_000),
        (13, parent, b"other\0", 6_000_000),
        (14, parent + 1, command, 7_000_000),
    ):
        folder = machine / "proc" / str(process)
        folder.mkdir()
        (folder / "status").write_text(f"Name: lab\nPPid:\t{started_by}\nRssAnon:\t{held} kB\n")
        (folder / "cmdline").write_bytes(words)
    assert resources.memory_of_processes(2) == 8_192_000_000 + 8_000_000 * 1024


def test_each_of_several_processes_has_its_own_address_space(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "proc" / "self" / "status").write_text("VmSize: 1000 kB\nRssAnon: 500 kB\n")
    monkeypatch.setattr(resources.resource, "getrlimit", lambda which: (2048 * 1024, 2048 * 1024))
    assert resources.memory_of_processes(2) == 2 * (1048 + 500) * 1024


def test_nothing_is_known_of_several_processes_where_nothing_is_known_of_one(machine: Path) -> None:
    (machine / "proc" / "meminfo").unlink()
    (machine / "proc" / "self" / "cgroup").unlink()
    assert resources.memory_of_processes(2) is None


def test_all_cores_are_usable_where_a_process_cannot_be_bound_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert resources.usable_cores() == 3
