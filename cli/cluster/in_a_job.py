"""A command as part of a cluster job: refused if started several times at once, in the directory it had before."""

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.cli.resume import quoted
from lab.core.errors import ConfigError
from lab.core.runs.find import is_open, outputs_root, run_directories
from lab.core.runs.json_files import json_object_or_none
from lab.core.runs.record import INDIFFERENT_KEYS
from lab.core.runs.slurm import job_label, restart_count
from lab.core.streams import say
from lab.experiments.spec import Experiment

# how many processes were started together: by torchrun, in a step of srun, by the mpiruns
_COUNTS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# Hydra's keys for the directory of a run and of a sweep, and the folders they are in
_PLACES = {"hydra.run.dir": "runs", "hydra.sweep.dir": "sweeps"}


def refuse_several_processes() -> None:
    """Refuse to do one run in several processes: each would do all of it.

    Raises:
        ConfigError: naming what started them, and the fix.
    """
    for name in _COUNTS:
        count = os.environ.get(name, "")
        if count.isdecimal() and int(count) > 1:
            raise ConfigError(
                f"{name}={count}: each of these processes would do the whole run; start it once, without torchrun and "
                "with srun --ntasks=1"
            )


def refuse_several_tasks(launcher: Mapping[str, Any]) -> None:
    """Refuse a launcher that would start each point of a sweep several times.

    Raises:
        ConfigError: naming the key and the fix.
    """
    for key in ("nodes", "tasks_per_node"):
        count = launcher.get(key, 1)
        if isinstance(count, int) and count > 1:
            raise ConfigError(f"hydra.launcher.{key}={count}: each task would do the whole run; write 1")


def own_directories(experiment: Experiment, overrides: Sequence[str]) -> list[str]:
    """Overrides that name the directories of a run and of a sweep after the Slurm job, so that a requeued job goes on.

    The name is that of the job, or of the task of its array, and a digest of the command: commands of one script have
    different directories. The same command again is the next run if the one before was finished by this attempt of the
    job, or is still going on. Nothing is named outside of jobs, or where the user or LAB_RUN_DIR does.
    """
    job = job_label()
    if job is None:
        return []
    words = [word for word in overrides if word.partition("=")[0] not in INDIFFERENT_KEYS]
    digest = hashlib.sha256("\0".join([experiment.command, *words]).encode()).hexdigest()[:8]
    given = {word.lstrip("+").partition("=")[0] for word in overrides}
    if "LAB_RUN_DIR" in os.environ:
        given.add("hydra.run.dir")
    named = []
    for key in sorted(_PLACES.keys() - given):
        folder = outputs_root() / experiment.config / _PLACES[key]
        name = f"job-{job}-{digest}"
        numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        directory = next(folder / name for name in numbered if not _is_taken(folder / name))
        if directory.exists():
            say(f"job {job} goes on in {directory}")
        named.append(f"{key}={quoted(directory)}")
    return named


def _is_taken(directory: Path) -> bool:
    """Whether a run or a sweep is going on, or was finished since the job was last started."""
    runs = run_directories(directory) if directory.exists() else []
    return any(is_open(run) for run in runs) or (bool(runs) and all(_is_finished_by_this_attempt(run) for run in runs))


def _is_finished_by_this_attempt(run: Path) -> bool:
    status, provenance = (json_object_or_none(run / f"{name}.json") or {} for name in ("status", "provenance"))
    job = provenance.get("slurm")
    restarts = job.get("restarts") if isinstance(job, dict) else None
    return status.get("status") == "finished" and restarts == restart_count()
