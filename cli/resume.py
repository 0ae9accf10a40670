"""The command line that continues a recorded run."""

import itertools
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lab.core.errors import RunError
from lab.core.runs.atomic_files import refuse_special
from lab.core.runs.find import find_run, refuse_other_version
from lab.core.runs.json_files import json_object_or_none, read_json
from lab.core.runs.record import INDIFFERENT_KEYS
from lab.core.runs.trackers import tracker_names
from lab.experiments.spec import Experiment

# also as the place that a group is put in: data@hydra.callbacks
_OF_HYDRA = re.compile(r"(^|[@:])hydra([./@:]|$)")
# of a sweep whose points optuna chooses: its study
SEARCH = "optuna.db"
_SUBDIR = "hydra.sweep.subdir="
# where the points of a sweep are computed, and what their folders are called
_OF_SWEEP = re.compile(rf"hydra[/.]launcher[.=]|{re.escape(_SUBDIR)}")
# Hydra's name for a point's folder, unless the user names it otherwise
BY_NUMBER = "${hydra:job.num}"
# ${seed} is another key of the run, ${oc.env:HOME} is not, and neither is ${${seed}:HOME}
_RESOLVER = re.compile(r"\$\{.*:", re.DOTALL)
# as the value of a group: a file outside the folders of configuration, or a name that is found out later
_ELSEWHERE = re.compile(r"\.\.|\$\{")


def resumed(arguments: Sequence[str], *, study: Experiment) -> list[str]:
    """The command line with `resume=RUN` replaced by that run's own overrides and directory.

    Args:
        arguments: the command line.
        study: the one whose command it is.

    Raises:
        RunError: if there is no such run, it was never started, other overrides are given with resume=, or another
            study or version of lab recorded it.
    """
    names = [word.removeprefix("resume=") for word in arguments if word.startswith("resume=")]
    if not names:
        return list(arguments)
    places, others = _split([word for word in arguments if not word.startswith("resume=")])
    directory = find_run(names[-1])
    refuse_other_version(directory)
    if "${" in str(directory):
        raise RunError(f"{directory}: a folder with ${{ in its name cannot hold runs; rename it")
    if (directory / SEARCH).exists():
        raise RunError(f"{directory} is a search; type its command again, with hydra.sweep.dir={directory}")
    is_sweep = (directory / "multirun.yaml").exists()
    _refuse_other_study(directory, study)
    overrides = _sweep_overrides(directory) if is_sweep else _run_overrides(directory)
    if is_sweep and not any(word.startswith(_SUBDIR) for word in others):
        others += _recorded_subdir(directory, is_checked=not places)
    if places:
        # Hydra composes such a command alone: its points are not checked beforehand
        refuse_links(directory, _possible_points(directory) if is_sweep else ())
    allowed = INDIFFERENT_KEYS | study.grows | study.free
    free = [word for word in others if word.partition("=")[0] in allowed or (is_sweep and _OF_SWEEP.match(word))]
    _refuse_less(directory, [word for word in free if word.partition("=")[0] in study.grows])
    # what makes no difference to the recorded numbers may be another in this attempt
    replaced = {word.partition("=")[0] for word in free}
    overrides = [word for word in overrides if word.partition("=")[0] not in replaced] + free
    for word in others:
        if word not in overrides:
            raise RunError(
                f"{word} with resume={names[-1]}: a run continues unchanged, except for "
                f"{', '.join(sorted(study.grows | study.free | INDIFFERENT_KEYS))}; leave it out, or start a new run"
            )
    if is_sweep:
        return ["--multirun", *overrides, f"hydra.sweep.dir={quoted(directory)}", *places]
    return [*overrides, f"hydra.run.dir={quoted(directory)}", *places]


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flag --config-dir with its folder, as the user typed it, and the other words.

    It is never recorded: what is in the folder may run code. config.json says whether it still holds the same keys.
    """
    places: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        name, is_set, _ = word.partition("=")
        if name in ("--config-dir", "-cd"):
            places += [word] if is_set else [word, *itertools.islice(rest, 1)]
        else:
            others.append(word)
    return places, others


def _possible_points(directory: Path) -> list[Path]:
    """Folders of a sweep that may be those of points."""
    found = [path for pattern in ("*", "*/*") for path in directory.glob(pattern)]
    return [path for path in found if path.is_dir() and path.name not in tracker_names()]


def refuse_links(directory: Path, points: Iterable[Path] = ()) -> None:
    """Refuse a directory where what is written in place is a link: it could lead to any file of the user's.

    Other folders in it are not looked at: what trackers keep in a run has links of their own.

    Args:
        directory: of a run or a sweep.
        points: the directories of the sweep's points.

    Raises:
        RunError: naming the link.
    """
    patterns = ("*.log", ".lock", "multirun.yaml")
    for path in (found for folder in (directory, *points) for name in patterns for found in folder.glob(name)):
        if path.is_symlink():
            raise RunError(f"{path} is a link, and the run would write to what it leads to; remove it")


def _refuse_less(directory: Path, words: Sequence[str]) -> None:
    """Refuse fewer draws than are recorded before Hydra writes the command down as that of the whole sweep."""
    for path in (directory / "config.json", *sorted(directory.glob("*/config.json"))):
        recorded = json_object_or_none(path) if path.exists() else None
        for key, _, value in (word.partition("=") for word in words):
            held = (recorded or {}).get(key)
            if value.isdecimal() and isinstance(held, int) and int(value) < held:
                raise RunError(f"{path.parent} holds a run with {key}={held}, not {value}; give {held} or more")


def _refuse_other_study(directory: Path, study: Experiment) -> None:
    """Refuse a run with keys that the study does not have; points of a sweep are runs in its folder."""
    from hydra.core.config_store import ConfigStore

    known = {str(key) for key in ConfigStore.instance().load(f"{study.config}_schema.yaml").node}
    path = directory / "config.json"
    # below a run, trackers have files of this name
    found = [path] if path.exists() else sorted(directory.glob("*/config.json"))[:1]
    for path in found:
        recorded = json_object_or_none(path)
        if recorded is not None and not recorded.keys() <= known:
            raise RunError(
                f"{directory} is of another study than `lab {study.command}`; resume it with that study's command"
            )


def quoted(directory: Path | str) -> str:
    """A directory of any name as a value in Hydra's grammar, which is taken literally."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=str(directory), quote=Quote.single).with_quotes()


def _run_overrides(directory: Path) -> list[str]:
    path = directory / "overrides.json"
    overrides = read_json(path, hint=f"{directory} cannot be continued, start a new run")
    if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
        raise RunError(f"{path} is damaged: it must list overrides; start a new run")
    return _harmless(overrides, path)


def _sweep_overrides(directory: Path) -> list[str]:
    return _harmless(_recorded_sweep(directory)[0], directory / "multirun.yaml")


def _recorded_subdir(directory: Path, *, is_checked: bool) -> list[str]:
    """The override that names the folders of a sweep's points as they were; none where they are numbered.

    Args:
        directory: of the sweep.
        is_checked: whether where they lead is looked at before one starts.

    Raises:
        RunError: if the name could lead elsewhere, or read what is none of the sweep's.
    """
    _, subdir = _recorded_sweep(directory)
    if subdir == BY_NUMBER:
        return []
    is_inside = not subdir.startswith("/") and ".." not in subdir.split("/")
    if _RESOLVER.search(subdir.replace(BY_NUMBER, "")) or not is_inside or not is_checked:
        raise RunError(
            f"{directory / 'multirun.yaml'} holds {_SUBDIR}{subdir}, which can do more than name a folder; if you know "
            f"where it comes from, type '{_SUBDIR}{subdir}' beside resume="
        )
    return [f"{_SUBDIR}{quoted(subdir)}"]


def _recorded_sweep(directory: Path) -> tuple[list[str], str]:
    """The overrides of a sweep, and what the folders of its points are called."""
    import yaml

    path = directory / "multirun.yaml"
    refuse_special(path, RunError)
    try:
        # not with OmegaConf: interpolations in somebody's file could read anything, and aliases become copies of copies
        recorded: Any = yaml.safe_load(path.read_bytes())
        hydra = recorded["hydra"]
        overrides = hydra["overrides"]["task"]
        if not isinstance(overrides, list):
            raise TypeError("overrides are a list")
        # as Hydra reads them: in front
        params = (hydra.get("sweeper") or {}).get("params") or {}
        words = [*(f"{key}={value}" for key, value in params.items()), *map(str, overrides)]
        subdir = str((hydra.get("sweep") or {}).get("subdir") or BY_NUMBER)
    # brackets in brackets without end are a RecursionError
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged; start a new sweep") from error
    return words, subdir


def _harmless(overrides: Sequence[str], path: Path) -> list[str]:
    """Recorded overrides, if they only choose and set keys of the study.

    A run may come from somebody else. Hydra's own keys and flags name code to run and folders with more configuration,
    as does a file outside these folders that is chosen as an option; interpolations read files and the environment.

    Raises:
        RunError: naming an override that does more.
    """
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        is_elsewhere = _is_group(key.partition("@")[0]) and _ELSEWHERE.search(value)
        if word.startswith("-") or _OF_HYDRA.search(key) or _RESOLVER.search(word) or is_elsewhere:
            raise RunError(
                f"{path} holds {word}, which can do more than set a key of the study; if you know where it comes from, "
                "start a new run with it"
            )
    return list(overrides)


def _is_group(key: str) -> bool:
    return resources.files("lab.conf").joinpath(*key.split("/")).is_dir()
