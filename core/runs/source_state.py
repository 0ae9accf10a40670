"""The state of lab's source: its commit, and uncommitted changes as a patch.

What git prints follows the settings of whoever runs it, and its variables; here it is told everything that decides
whether a patch is whole and applies. What git cannot say is not known, which is something else than unchanged.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lab.core.streams import say

# folders whose files determine what a run computes
_ROOMS = ("api", "cli", "conf", "core", "experiments")
# of one call; disks of clusters are slow
_LONGEST_S = 20.0
_PATCH = (
    *("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/"),
    *("-U3", "--inter-hunk-context=0", "--submodule=short", "-O/dev/null"),
)
# of a program that calls lab, as a hook of git does: they name another repository, or other patches
_FOREIGN = frozenset(
    {
        *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIFF_OPTS", "GIT_DIR", "GIT_EXTERNAL_DIFF"),
        *("GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_WORK_TREE"),
    }
)


class SourceState(NamedTuple):
    """What is known of the source.

    Attributes:
        commit: None for an installed copy, and where git does not say.
        is_dirty: whether it has uncommitted changes; None where git does not say.
        patch: these changes, as bytes, since files may have any encoding; empty if there are none, or git does not say.
    """

    commit: str | None
    is_dirty: bool | None
    patch: bytes


class _GitError(Exception):
    """Git is missing, fails or takes too long; the message says which."""


def source_state(source: Path) -> SourceState:
    """The state of a folder; of a part that git does not give, one line says why.

    Args:
        source: where lab's packages are. An installed copy has no repository of its own, but may lie inside another's.
    """
    if not (source / ".git").exists():
        return SourceState(None, is_dirty=False, patch=b"")
    commit, is_dirty, patch = None, None, b""
    try:
        commit = _git(source, "rev-parse", "--verify", "HEAD").decode().strip()
        new = _new_files(source)
        is_dirty = bool(new or _git(source, "status", "--porcelain", "--untracked-files=no"))
        if is_dirty:
            patch = b"".join([_git(source, "diff", *_PATCH, "HEAD"), *_as_patches(source, new)])
    except _GitError as error:
        unknown = "uncommitted changes are" if commit else "the commit is"
        say(f"{unknown} not recorded: {error}")
    return SourceState(commit, is_dirty, patch)


def _new_files(source: Path) -> list[str]:
    """Untracked source files; `git diff` omits them."""
    names = _git(source, "ls-files", "--others", "--exclude-standard", "-z", "--", *_ROOMS).split(b"\0")
    return [os.fsdecode(name) for name in names[:-1]]


def _as_patches(source: Path, names: Sequence[str]) -> Iterator[bytes]:
    for name in names:
        yield _git(source, "diff", *_PATCH, "--no-index", "--", os.devnull, name, code=1)


def _git(source: Path, command: str, *arguments: str, code: int = 0) -> bytes:
    """What a command of git prints.

    Args:
        source: the working tree.
        command: of git.
        arguments: of the command.
        code: the exit status with which it has succeeded.

    Raises:
        _GitError: if it has not.
    """
    # named outright, a repository may belong to another user, as that of a container's image often does
    place = ["-C", str(source), f"--git-dir={source / '.git'}", f"--work-tree={source}"]
    settings = ["-c", "core.quotePath=false", "-c", "core.fsmonitor=false", "-c", "diff.relative=false"]
    variables = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    try:
        done = subprocess.run(
            ["git", *place, *settings, command, *arguments],
            capture_output=True,
            timeout=_LONGEST_S,
            check=False,
            # it would write what it finds out into a checkout that others read
            env={**variables, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except subprocess.TimeoutExpired:
        raise _GitError(f"git {command} took longer than {_LONGEST_S:g} s in {source}") from None
    except OSError as error:
        raise _GitError(f"git cannot be started ({error.strerror}), to look at {source}") from None
    if done.returncode != code:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _GitError(f"git {command} in {source}: {lines[0] if lines else f'exit status {done.returncode}'}")
    return done.stdout
