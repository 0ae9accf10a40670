"""Attempts at one run: what computed each, and whether the next one comes to the same last digits.

provenance.json describes the present attempt; its entry `earlier` lists those before it, oldest first. A run goes on
only where it comes to the same last digits, unless its key resume_on=different says that others will do.
"""

import itertools
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from lab.core.errors import RunError
from lab.core.runs.atomic_files import refuse_special
from lab.core.runs.json_files import json_object_or_none
from lab.core.streams import say

PROVENANCE, EARLIER = "provenance.json", "earlier"
# a setting of a process that follows from how many there are on a machine
_THREADS = "threads"
# recorded of studies that read files
_DATA = "data"
# characters of a digest that a message shows
_SHOWN = 12
# differences that a message names
_NAMED = 3


class ResumeOn(StrEnum):
    """On what a run may be resumed."""

    same = "same"
    """Only where it comes to the same last digits."""
    different = "different"
    """Anywhere: from there on the last digits may be others."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What computes with other last digits than before, in words.

    Args:
        before: provenance of an attempt.
        now: provenance of another one.
    """
    theirs, ours = dict(_deciding(before)), dict(_deciding(now))
    if _processes(before) != _processes(now):
        # as many cores as there were are shared by more or fewer
        theirs.pop(_THREADS, None)
        ours.pop(_THREADS, None)
    if _DATA in before and _DATA in now:
        theirs |= _contents(before)
        ours |= _contents(now)
    return [
        f"{name} is {ours.get(name, 'not used')}, was {theirs.get(name, 'not used')}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def refuse_difference(run: Path, provenance: Mapping[str, Any], resume_on: str) -> None:
    """Refuse to go on with a run where its numbers would not be those of an uninterrupted one.

    With resume_on=different, and for other source code, which may well compute the same, that is only said.

    Raises:
        RunError: naming what differs and what can be done.
    """
    before = json_object_or_none(run / PROVENANCE)
    if before is None:
        found = [f"{run / PROVENANCE} is missing or damaged, so that what computed it is not known"]
    else:
        found = differences(before, provenance)
        _say_other_code(before, provenance)
        _say_other_processes(run, before, provenance)
    if not found:
        return
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    what = f"{'; '.join(found[:_NAMED])}{more}"
    if resume_on != ResumeOn.different:
        raise RunError(
            f"{run} would go on with other last digits: {what}; resume it where it began, with the data that it had, "
            "or with resume_on=different"
        )
    say(f"{run} goes on with other last digits (resume_on=different): {what}")


def recorded(run: Path, part: str) -> Mapping[str, object]:
    """A part of the provenance of the last attempt at a run; empty if there was none, or it is damaged."""
    content = (json_object_or_none(run / PROVENANCE) or {}).get(part)
    return content if isinstance(content, dict) else {}


def with_earlier(run: Path, provenance: Mapping[str, Any], resume_on: str) -> dict[str, Any]:
    """The provenance of an attempt that goes on with a run, and of all before it."""
    before = json_object_or_none(run / PROVENANCE) or {}
    earlier = before.pop(EARLIER, [])
    told = {"resume_on": resume_on} if resume_on != ResumeOn.same else {}
    return {**provenance, **told, EARLIER: [*earlier, before]}


def patch_name(run: Path, provenance: Mapping[str, Any], patch: bytes) -> str | None:
    """The file for the uncommitted changes of an attempt, an earlier one's if they are the same; None for none."""
    if not patch:
        return None
    for number in itertools.count(1):
        path = run / (f"source-{number}.patch" if number > 1 else "source.patch")
        if not path.exists() or number > len(provenance.get(EARLIER, [])):
            return path.name
        refuse_special(path, RunError)
        if path.read_bytes() == patch:
            return path.name
    return None


def _deciding(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of everything that the last digits depend on."""
    for name in ("processor", "instructions", "compiler", "device"):
        if provenance.get(name) is not None:
            yield name, str(provenance[name])
    for name in provenance.get("computed_by", ()):
        yield name, str(provenance.get("versions", {}).get(name, "not installed"))
    for part, words in (("settings", ""), ("backends", ""), ("products", "products of ")):
        for name, value in provenance.get(part, {}).items():
            yield f"{words}{name}", str(value)


def _contents(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What each file of the data holds, by its name; where it lies makes no difference."""
    return {
        name: f"{content['bytes']:,} bytes (SHA-256 {content['digest'][:_SHOWN]}…)"
        for name, content in provenance[_DATA].items()
    }


def _say_other_processes(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    theirs, ours = _processes(before), _processes(now)
    if theirs != ours:
        say(f"{run} goes on with {ours}, before: {theirs}; the last digits may be others")


def _processes(provenance: Mapping[str, Any]) -> str:
    """How many processes worked on a run, and how they shared the model."""
    found = provenance.get("processes")
    if not isinstance(found, dict):
        return "one process"
    return f"{found.get('number')} processes ({found.get('strategy')}, {found.get('frozen')})"


def _say_other_code(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    theirs, ours = (
        (record.get("commit"), record.get("is_dirty", False), record.get("versions", {}).get("ssm-lab"))
        for record in (before, now)
    )
    if theirs != ours:
        say(f"going on with other source code: {_code(ours)}, before: {_code(theirs)}")


def _code(code: tuple[Any, ...]) -> str:
    commit, is_dirty, version = code
    name = f"commit {str(commit)[:8]}" if commit else f"version {version}"
    if is_dirty is None and commit:
        return f"{name}, with changes that are not known"
    return f"{name} with changes" if is_dirty else name
