"""`lab slurm script`: what it prints, and what it refuses."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import fields

import pytest

from lab.cli import dispatch
from lab.cli.cluster import script as slurm
from lab.cli.main import found_experiments
from lab.core.errors import ConfigError
from lab.experiments.distill.config import DistillConfig
from lab.experiments.hmm_risk.config import HmmRiskConfig
from lab.experiments.spec import Experiment

SWEEP = ("hmm-risk", "sweep", "num_train=20")
CHAIN = ("distill", "stage=1", "student=hybrid", "then", "2", "then", "stage=3", "student=linear")

Script = Callable[..., str]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are checked; composing one takes longer than all tests here."""
    found: list[list[str]] = []

    def note(experiment: Experiment, words: Sequence[str]) -> None:
        found.append([experiment.command, *words])

    monkeypatch.setattr(dispatch, "check_command", note)
    return found


def printed(*words: str) -> str:
    return slurm.script(words, found_experiments())


def options(text: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}


def test_a_script_asks_for_what_was_asked_for(checked: list[list[str]]) -> None:
    keys = ("gpus_per_node=1", "nodes=1", "cpus_per_task=8", "mem=16G", "partition=a,b", "account=x", "name=mine")
    text = printed(*SWEEP, "time=1-02:30:00", *keys)
    assert options(text) == {
        "--job-name=mine",
        "--time=1-02:30:00",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--gpus-per-node=1",
        "--cpus-per-task=8",
        "--mem=16G",
        "--partition=a,b",
        "--account=x",
        "--requeue",
        "--signal=USR2@120",
        "--open-mode=append",
    }
    assert text.startswith("#!/bin/bash\n#SBATCH")
    assert "lab hmm-risk sweep num_train=20\n" in text
    assert "srun --ntasks=1 --cpus-per-task=8 " in text
    assert checked == [["hmm-risk sweep", "num_train=20"]]
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("time", "warning"), [("1", 30), ("1:00", 30), ("90", 120), ("0-1", 120), ("2:00:00", 120), ("3:00", 90)]
)
def test_the_warning_fits_into_the_time(time: str, warning: int, checked: list[list[str]]) -> None:
    assert f"--signal=USR2@{warning}" in options(printed(*SWEEP, f"time={time}"))


def test_words_are_quoted_and_the_number_of_a_task_is_left_to_the_shell(checked: list[list[str]]) -> None:
    text = printed("hmm-risk", "sweep", "title=it's $HOME", "seed=$SLURM_ARRAY_TASK_ID", "time=9")
    (line,) = (line for line in text.splitlines() if line.startswith("srun"))
    arguments = line.partition("sweep ")[2]
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {arguments}"],
        env={"SLURM_ARRAY_TASK_ID": "5", "HOME": "/"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.splitlines() == ["title=it's $HOME", "seed=5"]
    assert checked == [["hmm-risk sweep", "title=it's $HOME", "seed=0"]]


def test_a_chain_submits_a_job_for_each_stage_that_starts_from_the_one_before(checked: list[list[str]]) -> None:
    text = printed(*CHAIN, "time=60")
    commands = [line.partition("lab distill ")[2] for line in text.splitlines() if line.startswith("srun")]
    assert commands == [
        """stage=1 student=hybrid "hydra.run.dir='$LAB_CHAIN-stage-1'\"""",
        """student=hybrid stage=2 "from_run='$LAB_CHAIN-stage-1'" "hydra.run.dir='$LAB_CHAIN-stage-2'\"""",
        """stage=3 student=linear "from_run='$LAB_CHAIN-stage-2'" "hydra.run.dir='$LAB_CHAIN-stage-3'\"""",
    ]
    assert text.count("--dependency=afterok:") == 3
    # the runs that later stages start from are not there yet
    assert [words.count("stage=1") for words in checked] == [1, 1, 1]
    assert checked[2] == ["distill", "student=linear", "stage=1"]
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_a_run_of_several_processes_has_one_for_each_gpu(checked: list[list[str]]) -> None:
    text = printed("distill", "parallel.strategy=fsdp", "nodes=2", "gpus_per_node=8", "cpus_per_task=6", "time=60")
    assert options(text) >= {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=6"}
    assert "srun --ntasks=16 --ntasks-per-node=8 --kill-on-bad-exit=1 --cpus-per-task=6 " in text
    assert text.index("export MASTER_ADDR=") < text.index("export MASTER_PORT=") < text.index("srun ")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SWEEP, "time is missing; give"),
        *[
            ((*SWEEP, f"time={time}"), f"time={time} must be a minute or more")
            for time in ("", "0", "soon", "0:59", "1:60:00", "-5", "1.5", "1-", "1:2:3:4", "UNLIMITED")
        ],
        ((*SWEEP, "time=9", "nodes=0"), "nodes=0 must be 1 to"),
        ((*SWEEP, "time=9", "nodes=2"), "nodes=2 .* 2 processes cannot share a run of hmm-risk sweep"),
        ((*SWEEP, "time=9", "gpus_per_node=8"), "gpus_per_node=8: 8 processes cannot share"),
        (("distill", "time=9", "gpus_per_node=8"), "8 processes .* add parallel.strategy=ddp or fsdp"),
        ((*SWEEP, "time=9", "cpus_per_task=0"), "cpus_per_task=0 must be 1 to"),
        ((*SWEEP, "time=9", "cpus_per_task=two"), "cpus_per_task=two must be"),
        ((*SWEEP, "time=9", "mem=lots"), "mem=lots must be"),
        ((*SWEEP, "time=9", "partition=a b"), "partition=a b must be letters"),
        ((*SWEEP, "time=9", "name="), "name= must be letters"),
        (("time=9",), "a command is missing"),
        (("export", "x", "time=9"), "export x: a job script is for distill or eval or hmm-risk sweep"),
        (("hmm-risk", "time=9"), "hmm-risk: a job script is for"),
        ((*SWEEP, "then", "2", "time=9"), "then: a chain is one of `distill`"),
        (("distill", "stage=1", "then", "time=9"), "then: the words of the next job are missing"),
        (("distill", "stage=2", "then", "1", "time=9"), "put them in order"),
        (("distill", "stage=all", "then", "2", "time=9"), "a chain is one of"),
        (("distill", "stage=1", "then", "2", "from_run=x", "time=9"), "from_run=.* the chain sets it"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], message: str, checked: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match=message):
        printed(*words)
    assert checked == []


def test_the_command_is_checked_as_if_it_was_run() -> None:
    with pytest.raises(ConfigError, match="num_train=-3"):
        printed("hmm-risk", "sweep", "num_train=-3", "time=9")


def test_no_key_of_a_study_is_one_of_a_job() -> None:
    keys = {field.name for config in (HmmRiskConfig, DistillConfig) for field in fields(config)}
    assert keys & set(slurm.KEYS) == set()


@pytest.mark.parametrize("least", [1, 2])
def test_an_array_may_begin_at_one(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(experiment: Experiment, words: Sequence[str]) -> None:
        if int(words[-1].partition("=")[2]) < least:
            raise ConfigError(f"{words[-1]} must be {least} or more")

    monkeypatch.setattr(dispatch, "check_command", check)
    words = ("hmm-risk", "sweep", "time=60", "num_train=$SLURM_ARRAY_TASK_ID")
    if least == 1:
        assert 'num_train="$SLURM_ARRAY_TASK_ID"' in printed(*words)
        return
    with pytest.raises(ConfigError, match="num_train=1 must be 2 or more"):
        printed(*words)
