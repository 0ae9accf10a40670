"""`lab slurm script`: a job script for a command, or one that submits a chain of jobs."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.core.errors import ConfigError, LabError
from lab.core.runs.slurm import RUNNING
from lab.experiments.spec import Experiment

HELP = """Print a job script that `sbatch` takes as it is.

COMMAND is a command of a study without `lab`. It is checked first, as if it was run. The job warns the run ahead of its
time limit, is requeued then or when it is pre-empted, and goes on in the same directory. Every task of an array has a
directory; `$SLURM_ARRAY_TASK_ID` in a word is its number.

\b
Keys [default]:
  time           MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS and so on
  gpus_per_node  GPUs [0]; with several, parallel.strategy=ddp or fsdp must
                 say how their processes share a run of distill
  nodes          likewise [1]
  cpus_per_task  cores [what the cluster gives]
  mem            memory, such as 16G [what the cluster gives]
  partition, account
                 where, and on whose account [what the cluster gives]
  name           of the job [lab]

Stages as jobs, each of which starts when the one before has ended well and from its student: STAGE, `then`, the words
that are different. The script submits them all; type `| sh` behind the command.

\b
Examples:
  lab slurm script hmm-risk sweep num_train=400 time=1:00:00 > job.sh
  lab slurm script hmm-risk sweep 'seed=$SLURM_ARRAY_TASK_ID' time=60 > job.sh
  lab slurm script distill stage=all gpus_per_node=1 time=8:00:00 > job.sh
  lab slurm script distill stage=1 then 2 then 3 time=8:00:00 | sh
  lab slurm script distill parallel.strategy=fsdp gpus_per_node=8 time=60
"""

_TASK = "$SLURM_ARRAY_TASK_ID"
# numbers of tasks with which a command is checked: one of them must do
_TRIED = ("0", "1")
KEYS = ("time", "gpus_per_node", "nodes", "cpus_per_task", "mem", "partition", "account", "name")
# seconds ahead of the time limit: enough for a step and a checkpoint
_WARNING = 120

# Where the processes of a run find each other: other jobs on the machine have other ports.
_SEVERAL = """\
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
"""

# A signal can reach a process that does not answer it yet: Python takes a second to start. 128 + USR1, USR2, TERM.
_JOB = """\
{before}srun {tasks}{cores} {command}
code=$?
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
job=${{job:-$SLURM_JOB_ID}}
case $code in 138|140|143) scontrol show job "$job" | grep -Eq 'JobState=({running})' && scontrol requeue "$job" ;; esac
exit $code
"""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job asks for, as options of sbatch.

    Attributes:
        seconds: of the time limit.
        lines: all that is asked for.
        cores: of a process; None for what the cluster gives.
        nodes: machines.
        tasks: processes on each of them.
    """

    seconds: int
    lines: tuple[str, ...]
    cores: int | None
    nodes: int
    tasks: int

    def body(self, command: str) -> str:
        """The lines behind the header."""
        # srun does not take this number over from sbatch
        cores = f" --cpus-per-task={self.cores}" if self.cores else ""
        if self.processes == 1:
            return _JOB.format(running="|".join(RUNNING), before="", tasks="--ntasks=1", cores=cores, command=command)
        tasks = f"--ntasks={self.processes} --ntasks-per-node={self.tasks} --kill-on-bad-exit=1"
        return _JOB.format(running="|".join(RUNNING), before=_SEVERAL, tasks=tasks, cores=cores, command=command)

    @property
    def processes(self) -> int:
        """How many processes are started together."""
        return self.nodes * self.tasks


def script(words: Sequence[str], experiments: Sequence[Experiment]) -> str:
    """The job script for a command, or the script that submits a chain of jobs.

    Args:
        words: the command, and keys of the job.
        experiments: the studies.

    Raises:
        LabError: if a key of the job, or the command, is refused.
    """
    asked = {key: value for key, is_set, value in (word.partition("=") for word in words) if is_set and key in KEYS}
    resources = _resources(asked)
    command = [word for word in words if word.partition("=")[0] not in asked]
    experiment = next(
        (each for each in experiments if command[: len(each.command.split())] == each.command.split()), None
    )
    if experiment is None:
        known = " or ".join(each.command for each in experiments)
        raise ConfigError(
            f"{' '.join(command[:2]) or 'a command is missing'}: a job script is for {known}; begin with it"
        )
    stages = _stages(command[len(experiment.command.split()) :])
    if resources.processes > 1:
        _refuse_unshared(experiment, stages, resources)
    _check(experiment, stages)
    if len(stages) == 1:
        return _job_script(experiment, stages[0], resources, asked.get("name", "lab"))
    return _chain(experiment, stages, resources, asked.get("name", "lab"))


def _resources(asked: dict[str, str]) -> Resources:
    if "time" not in asked:
        raise ConfigError("time is missing; give the time limit of the job, as in time=4:00:00")
    seconds = _seconds(asked["time"])
    lines = [f"--time={asked['time']}"]
    for key, most in (("nodes", 4096), ("gpus_per_node", 64), ("cpus_per_task", 4096)):
        value, least = asked.get(key), 0 if key == "gpus_per_node" else 1
        if value is None:
            continue
        if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise ConfigError(f"{key}={value} must be {least} to {most}")
        if key != "nodes" and int(value):
            lines.append(f"--{key.replace('_', '-')}={int(value)}")
    nodes, tasks = int(asked.get("nodes", 1)), max(1, int(asked.get("gpus_per_node", 0)))
    lines[1:1] = [f"--nodes={nodes}", f"--ntasks-per-node={tasks}"]
    if "mem" in asked:
        if not re.fullmatch(r"[1-9][0-9]{0,8}[KMGT]?", asked["mem"]):
            raise ConfigError(f"mem={asked['mem']} must be a number of megabytes, or one with K, M, G or T, as in 16G")
        lines.append(f"--mem={asked['mem']}")
    for key in ("partition", "account", "name"):
        value = asked.get(key)
        if value is not None and not re.fullmatch(r"[\w.,@+-]+", value):
            raise ConfigError(f"{key}={value} must be letters, digits and . , @ + - _")
        if value is not None and key != "name":
            lines.append(f"--{key}={value}")
    cores = int(asked["cpus_per_task"]) if "cpus_per_task" in asked else None
    return Resources(seconds, tuple(lines), cores, nodes, tasks)


def _refuse_unshared(experiment: Experiment, stages: Sequence[Sequence[str]], resources: Resources) -> None:
    """Refuse several processes for a run that does not say how they share it."""
    number = f"nodes={resources.nodes} with gpus_per_node={resources.tasks}: {resources.processes} processes"
    if not experiment.is_shared:
        raise ConfigError(f"{number} cannot share a run of {experiment.command}; give one of each")
    for words in stages:
        if not any(re.fullmatch(r"parallel\.strategy=(ddp|fsdp)", word) for word in words):
            raise ConfigError(f"{number} share a run in one of two ways; add parallel.strategy=ddp or fsdp")


def _seconds(time: str) -> int:
    """Seconds of a time in one of Slurm's forms."""
    found = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", time)
    if found is not None:
        days, *parts = found.groups()
        numbers = [int(part) for part in parts if part is not None]
        # with days, the first number means hours; without, two numbers are minutes and seconds
        scale = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
        seconds = 86400 * int(days or 0) + sum(number * unit for number, unit in zip(numbers, scale, strict=False))
        if seconds >= 60 and all(number < 60 for number in numbers[1:]):
            return seconds
    raise ConfigError(
        f"time={time} must be a minute or more, as MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, "
        "DAYS-HOURS:MINUTES or DAYS-HOURS:MINUTES:SECONDS"
    )


def _stages(words: Sequence[str]) -> list[list[str]]:
    """The words of each job of a chain: those of the first one, and what is different behind each `then`."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "then":
            parts.append([])
        else:
            parts[-1].append(word)
    first = parts[0]
    stages = [first]
    for part in parts[1:]:
        if not part:
            raise ConfigError("then: the words of the next job are missing, as in stage=1 then 2 then 3")
        own = [f"stage={word}" if word.isdecimal() else word for word in part]
        keys = {word.partition("=")[0] for word in own}
        stages.append([*(word for word in first if word.partition("=")[0] not in keys), *own])
    return stages


def _check(experiment: Experiment, stages: Sequence[Sequence[str]]) -> None:
    """Refuse what the jobs would refuse; of a chain, all but the runs that do not exist yet."""
    from lab.cli.dispatch import check_command

    numbers = [next((word for word in words if word.startswith("stage=")), "") for words in stages]
    if len(stages) > 1:
        if experiment.command != "distill" or not all(re.fullmatch(r"stage=[123]", number) for number in numbers):
            raise ConfigError("then: a chain is one of `distill`, of stage=1, 2 and 3, as in stage=1 then 2 then 3")
        if numbers != sorted(set(numbers)):
            raise ConfigError(f"{' then '.join(numbers)}: a later job trains a later stage; put them in order")
        for words in stages:
            for key in ("from_run", "resume", "hydra.run.dir"):
                if any(word.startswith(f"{key}=") for word in words) and (key != "from_run" or words is not stages[0]):
                    raise ConfigError(f"{key}=…: the chain sets it; leave it out")
    for place, words in enumerate(stages):
        # a later stage starts from a run that is not there yet; everything else is what stage 1 checks
        known = [word for word in words if place == 0 or not word.startswith("stage=")] + ["stage=1"] * (place > 0)
        numbers_of_tasks = _TRIED if any(_TASK in word for word in known) else _TRIED[-1:]
        for number in numbers_of_tasks:
            try:
                check_command(experiment, [word.replace(_TASK, number) for word in known])
                break
            except LabError:
                # an array begins where the user likes
                if number == _TRIED[-1]:
                    raise


def _job_script(experiment: Experiment, words: Sequence[str], resources: Resources, name: str) -> str:
    command = " ".join([_lab(), experiment.command, *map(_quoted, words)])
    return f"#!/bin/bash\n{_header(resources, name)}\n{resources.body(command)}"


def _header(resources: Resources, name: str) -> str:
    # the warning comes up to a minute early
    warning = min(_WARNING, resources.seconds // 2)
    lines = (f"--job-name={name}", *resources.lines, "--requeue", f"--signal=USR2@{warning}", "--open-mode=append")
    return "".join(f"#SBATCH {line}\n" for line in lines)


def _chain(experiment: Experiment, stages: Sequence[Sequence[str]], resources: Resources, name: str) -> str:
    """A script for `sh`: every job waits for the one before, and starts from its run."""
    text = [
        "#!/bin/sh",
        "# type it into sh: it submits the jobs",
        "set -e",
        f'export LAB_CHAIN="${{LAB_OUTPUTS:-outputs}}/{experiment.config}/runs/$(date +%Y%m%d-%H%M%S)-$$"',
        "after=",
    ]
    before = None
    for words in stages:
        stage = next(word.partition("=")[2] for word in words if word.startswith("stage="))
        own = [_quoted(word) for word in words]
        if before is not None:
            own.append(f"\"from_run='$LAB_CHAIN-stage-{before}'\"")
        own.append(f"\"hydra.run.dir='$LAB_CHAIN-stage-{stage}'\"")
        job = resources.body(" ".join([_lab(), experiment.command, *own]))
        text += [
            "after=$(sbatch --parsable --kill-on-invalid-dep=yes $after <<'JOB'",
            f"#!/bin/bash\n{_header(resources, f'{name}-stage-{stage}')}\n{job}JOB",
            ")",
            f'echo "stage {stage}: job $after, $LAB_CHAIN-stage-{stage}"',
            'after="--dependency=afterok:${after%%;*}"',
        ]
        before = stage
    return "\n".join(text) + "\n"


def _quoted(word: str) -> str:
    """A word for the shell, in which the number of the task of an array is left to it."""
    return f'"{_TASK}"'.join(shlex.quote(part) if part else "" for part in word.split(_TASK)) or "''"


def _lab() -> str:
    """This command: in a job the environment may be another."""
    beside = Path(sys.executable).parent / "lab"
    return shlex.quote(str(beside)) if beside.exists() else "lab"
