"""A command that is part of a cluster job: its directory, and being started several times for one run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cli.cluster.in_a_job import own_directories, refuse_several_processes, refuse_several_tasks
from lab.core.errors import ConfigError
from lab.core.parallel.launched import launched
from lab.core.runs.provenance import collect
from lab.core.runs.record import Run
from lab.experiments.hmm_risk import SPEC

WORDS = ["num_train=20", "workers=2"]


@pytest.fixture
def job(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be part of job 7, or of a task of its array, at a later start of it."""

    def be(*, task: str = "", restarts: str = "") -> None:
        values = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": task and "7", "SLURM_ARRAY_TASK_ID": task}
        for name, value in {**values, "SLURM_RESTART_COUNT": restarts}.items():
            monkeypatch.setenv(name, value)

    for name in ("LAB_RUN_DIR", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    be()
    return be


def place(*words: str, key: str = "hydra.run.dir") -> Path:
    (found,) = (word for word in own_directories(SPEC, [*WORDS, *words]) if word.startswith(f"{key}="))
    return Path(found.partition("=")[2].strip("'"))


def work(directory: Path, *, is_cut_off: bool = False) -> None:
    provenance, _ = collect(seeds={}, backends={}, computed_by=(), settings={})
    try:
        with Run[dict[str, object]](directory, {}, [], provenance, b""):
            if is_cut_off:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def test_outside_of_a_job_and_where_the_user_chooses_nothing_is_named(
    job: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(own_directories(SPEC, WORDS)) == 2
    assert own_directories(SPEC, ["hydra.run.dir=x", "hydra.sweep.dir=y"]) == []
    monkeypatch.setenv("LAB_RUN_DIR", "x")
    assert [word.partition("=")[0] for word in own_directories(SPEC, WORDS)] == ["hydra.sweep.dir"]
    monkeypatch.delenv("SLURM_JOB_ID")
    assert own_directories(SPEC, WORDS) == []


def test_a_requeued_job_finds_its_directory_and_other_commands_have_others(
    job: Callable[..., None], outputs: Path
) -> None:
    first = place()
    assert first.parent == outputs / "hmm_risk" / "runs"
    assert place(key="hydra.sweep.dir").parent == outputs / "hmm_risk" / "sweeps"
    assert place("seed=1") != first
    assert place("workers=1", "threads=3") == first
    job(restarts="3")
    assert place() == first
    job(task="0")
    assert place() != first
    assert "7_0" in place().name


def test_the_same_command_again_is_the_next_run_unless_it_was_cut_off(
    job: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    first = place()
    work(first, is_cut_off=True)
    assert place() == first
    assert f"lab: job 7 goes on in {first}" in capfd.readouterr().err
    work(first)
    second = place()
    assert second.name == f"{first.name}-2"
    work(second, is_cut_off=True)
    # the script begins again: the first one is found finished, the second one goes on
    job(restarts="1")
    assert place() == first
    work(first)
    assert place() == second
    assert json.loads((first / "provenance.json").read_text())["slurm"] == {"job": "7", "restarts": 1}


def test_a_run_that_is_open_is_left_to_whoever_opened_it(job: Callable[..., None]) -> None:
    first = place()
    provenance, _ = collect(seeds={}, backends={}, computed_by=(), settings={})
    with Run[dict[str, object]](first, {}, [], provenance, b""):
        assert place() != first


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_several_processes_for_one_run_are_refused(
    name: str, job: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for harmless in ("1", ""):
        monkeypatch.setenv(name, harmless)
        refuse_several_processes(launched())
    monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=f"{name}=2: .* start it once"):
        refuse_several_processes(launched())


def test_a_launcher_with_several_tasks_is_refused() -> None:
    refuse_several_tasks({"nodes": 1, "_target_": "x"})
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.tasks_per_node=2: .* write 1"):
        refuse_several_tasks({"tasks_per_node": 2})
