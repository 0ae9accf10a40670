"""A wrong shape annotation fails the tests that call what it stands on."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import jaxtyping
import numpy as np
import pytest

import shape_checks
from lab.core.heads.decompositions import Svd, thin_svd

MODULE = """
from dataclasses import dataclass
from typing import NamedTuple
from jaxtyping import Float64
from numpy import ndarray

@dataclass(frozen=True)
class Pair:
    left: Float64[ndarray, "n m"]
    right: Float64[ndarray, "m n"] | None = None
    name: int = "no number"

class Twins(NamedTuple):
    first: Float64[ndarray, " n"]
    second: Float64[ndarray, " n"]

class Room:
    @property
    def vector(self) -> Float64[ndarray, " n"]:
        return self.inside

def product(a: Float64[ndarray, "n m"], b: Float64[ndarray, "m k"], *, turned: bool = False) -> Float64[ndarray, "n k"]:
    return (a @ b).T if turned else a @ b
"""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "annotated").mkdir()
    (tmp_path / "annotated" / "module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    shape_checks.install("annotated")
    module = importlib.import_module("annotated.module")
    monkeypatch.delitem(sys.modules, "annotated.module")
    return module


def test_what_is_as_annotated_goes_through(checked: ModuleType) -> None:
    assert checked.product(np.ones((2, 3)), np.ones((3, 4))).shape == (2, 4)
    assert checked.Pair(np.ones((2, 3)), np.ones((3, 2))).name == "no number", "only arrays are checked"
    assert checked.Twins(np.ones(2), second=np.zeros(2)).second.sum() == 0


def test_what_is_not_as_annotated_is_an_error(checked: ModuleType) -> None:
    room = checked.Room()
    room.inside = np.ones((2, 2))
    for wrong in (
        lambda: checked.product(np.ones((2, 3)), np.ones((4, 3))),
        lambda: checked.product(np.ones((2, 3)), np.ones((3, 4)), turned=True),
        lambda: checked.product(np.ones((2, 3), np.float32), np.ones((3, 4))),
        lambda: checked.Pair(np.ones((2, 3)), np.ones((2, 3))),
        lambda: checked.Twins(np.ones(2), np.ones(3)),
        lambda: room.vector,
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            wrong()


@pytest.mark.wrong_shapes
def test_a_test_may_give_wrong_shapes_on_purpose(checked: ModuleType) -> None:
    assert checked.Twins(np.ones(2), np.ones(3)).second.size == 3


def test_the_package_is_checked() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        thin_svd(np.ones(3), rtol=0.0)
    with pytest.raises(jaxtyping.TypeCheckError):
        Svd(np.ones((4, 2)), np.ones(3), np.ones((3, 5)))
