"""`lab.load` knows every name that `lab generate` knows, and names of students."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lab

pytestmark = pytest.mark.slow
Typed = Callable[..., Any]
QUESTION = "How many pictures show a bag?"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shipped", ("shipped",)),
        ("TEACHER", ("TEACHER",)),
        ("FOLDER", ("FOLDER",)),
        ("hybrid", ("hybrid",)),
        ("hybrid@1", ("hybrid", "--stage", "1")),
        ("several@1:b:1", ("several", "--stage", "1", "--variant", "b", "--replicate", "1")),
    ],
)
def test_a_name_is_the_model_of_the_command(
    typed: Typed, distilled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(distilled.root))
    places = {"TEACHER": str(distilled.teacher), "FOLDER": str(tmp_path / "student")}
    if name == "FOLDER":
        assert typed("export", "hybrid", places[name]).code == 0
    given = [places.get(word, word) for word in words]
    done = typed("generate", *given, "--prompt", QUESTION, "--max-new-tokens", "6", "--threads", "1")
    assert done.code == 0, done.err
    loaded = lab.load(places.get(name, name))
    assert loaded.generate(QUESTION, max_new_tokens=6) == done.out.removesuffix("\n")
    assert loaded.states(QUESTION, layers=[-1]).popitem()[1].isfinite().all()
