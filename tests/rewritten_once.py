"""After a change, each test file is compiled by one of the processes that run tests, not by all of them.

pytest rewrites assertions when a file is first imported, which takes as long as everything else before the first test,
and all processes import the files in the same order. Here half of them begin at the other end, until they meet.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import PYC_TAIL, _rewrite_test, _write_pyc, assertstate_key, get_cache_dir


def _files(words: Sequence[str]) -> list[Path]:
    """Of folders; a single file is not worth it."""
    folders = [Path(word) for word in words if Path(word).is_dir()]
    return sorted(path.resolve() for folder in folders for path in folder.rglob("test_*.py"))


def rewrite(config: pytest.Config) -> None:
    """Compile this process's share of the files that are asked for, up to the first that is compiled already."""
    number = int(config.workerinput["workerid"].removeprefix("gw"))
    if sys.dont_write_bytecode or config.getoption("assertmode") == "plain":
        return
    for path in _files(config.args)[:: -1 if number % 2 else 1]:
        compiled = get_cache_dir(path) / f"{path.stem}{PYC_TAIL}"
        if compiled.exists():
            return
        compiled.parent.mkdir(exist_ok=True)
        status, code = _rewrite_test(path, config)
        _write_pyc(config.stash[assertstate_key], code, status, compiled)
