"""A command as part of a cluster job: refused if started several times at once, in the directory it had before."""

import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.cli.resume import quoted
from lab.core.errors import ConfigError
from lab.core.parallel.launched import Launched, launched
from lab.core.runs.find import is_open, outputs_root, run_directories
from lab.core.runs.json_files import json_object_or_none
from lab.core.runs.record import INDIFFERENT_KEYS
from lab.core.runs.slurm import job_label, restart_count
from lab.core.streams import say
from lab.experiments.spec import Experiment

# Hydra's keys for the directory of a run and of a sweep, and the folders they are in
_PLACES = {"hydra.run.dir": "runs", "hydra.sweep.dir": "sweeps"}


def refuse_several_processes(here: Launched | None) -> None:
    """Refuse to do one run in several processes: each would do all of it.

    Raises:
        ConfigError: naming what started them, and the fix.
    """
    if here is not None:
        raise ConfigError(
            f"{here.by}={here.size}: each of these processes would do the whole run; start it once, without torchrun "
            "and with srun --ntasks=1"
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

    Several processes of one run find the same directory, also after a restart by torchrun: it is named after what
    torchrun calls the run, or the step of the job.

    Raises:
        ConfigError: if they cannot find one.
    """
    here = launched()
    job = job_label()
    if here is not None:
        return _shared_directory(experiment, overrides, here, job)
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


def _shared_directory(experiment: Experiment, overrides: Sequence[str], here: Launched, job: str | None) -> list[str]:
    """The directory of a run of several processes, which must not look at it: one of them may have begun."""
    given = {word.lstrip("+").partition("=")[0] for word in overrides}
    if "LAB_RUN_DIR" in os.environ or "hydra.run.dir" in given:
        return []
    words = [word for word in overrides if word.partition("=")[0].partition(".")[0] not in INDIFFERENT_KEYS]
    digest = hashlib.sha256("\0".join([experiment.command, *words]).encode()).hexdigest()[:8]
    name = here.name
    if name is None and job is not None:
        name = f"job-{job}-step-{os.environ.get('SLURM_STEP_ID', '0')}"
    if name is None:
        raise ConfigError(
            f"{here.by}={here.size}: the processes have no common name for their run; start torchrun with --rdzv-id, "
            "or set LAB_RUN_DIR to the directory"
        )
    directory = outputs_root() / experiment.config / _PLACES["hydra.run.dir"] / f"{_plain(name)}-{digest}"
    if directory.exists() and here.rank == 0:
        say(f"{name} goes on in {directory}")
    return [f"hydra.run.dir={quoted(directory)}"]


def _plain(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^\w.-]", "-", name)[:80].lstrip(".")


def _is_taken(directory: Path) -> bool:
    """Whether a run or a sweep is going on, or was finished since the job was last started."""
    runs = run_directories(directory) if directory.exists() else []
    return any(is_open(run) for run in runs) or (bool(runs) and all(_is_finished_by_this_attempt(run) for run in runs))


def _is_finished_by_this_attempt(run: Path) -> bool:
    status, provenance = (json_object_or_none(run / f"{name}.json") or {} for name in ("status", "provenance"))
    job = provenance.get("slurm")
    restarts = job.get("restarts") if isinstance(job, dict) else None
    return status.get("status") == "finished" and restarts == restart_count()
