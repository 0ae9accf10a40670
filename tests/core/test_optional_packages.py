"""Packages of extras: what is missing is named with the command that installs it."""

import json
import sys

import pytest

from lab.core.errors import BackendError
from lab.core.optional_packages import load_package


def test_an_installed_package_is_imported() -> None:
    assert load_package("json", needed_by="this test") is json


def test_a_missing_package_is_named_with_all_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BackendError, match=r"^a\.gguf needs gguf 0\.10 or newer; pip install json gguf$"):
        load_package("json", "gguf", needed_by="a.gguf")
