"""easy-VQA's held-out questions: from a package with the same functions, and from the real one where it is there."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from lab.core.benchmarks.file import BenchmarkFile
from lab.core.benchmarks.spec import benchmarks
from lab.core.errors import ConfigError
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.easy_vqa import EasyVqaQuestions, write_tsv
from lab.experiments.eval.tasks import open_task
from reference.easy_vqa_package import easy_vqa_package


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", easy_vqa_package(tmp_path))


@pytest.mark.usefixtures("package")
def test_questions_have_their_images_and_the_chance_of_their_wording() -> None:
    task = open_task("easy_vqa", EvalConfig(models=["m"], tasks=["easy_vqa"]))
    assert task.size(None) == 4
    found = [EasyVqaQuestions(None).with_images(place) for place in range(4)]
    assert [question.category for question, _ in found] == ["shape", "yes or no", "colour", "yes or no"]
    assert [images[0].getpixel((0, 0)) for _, images in found] == [(7, 4, 0), (7, 4, 0), (8, 4, 0), (8, 4, 0)]
    chance = task.chance()
    assert chance is not None
    # all but the last are answered as the same question in training
    assert chance.scores(chance.counts.totals())["accuracy"][0] == pytest.approx(75)
    assert len(EasyVqaQuestions(2)) == 2
    with pytest.raises(ConfigError, match="easy_vqa:none: the number of questions"):
        open_task("easy_vqa:none", EvalConfig(models=["m"], tasks=["t"]))


def same(places: Iterable[int], path: Path) -> bool:
    source, file = EasyVqaQuestions(None), BenchmarkFile(path, benchmarks()["questions"])
    assert len(file) == len(source)
    for place in places:
        (ours, our_images), (theirs, their_images) = source.with_images(place), file.with_images(place)
        assert ours == theirs
        assert np.array_equal(np.asarray(our_images[0]), np.asarray(their_images[0]))
    return True


@pytest.mark.usefixtures("package")
def test_the_file_holds_the_same_questions_and_images(tmp_path: Path) -> None:
    assert write_tsv(tmp_path / "easy_vqa.tsv") == 4
    assert same(range(4), tmp_path / "easy_vqa.tsv")


def test_the_real_package(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa")
    source = EasyVqaQuestions(None)
    assert len(source) == 9673
    assert {source[place].category for place in range(len(source))} == {"yes or no", "shape", "colour"}
    assert write_tsv(tmp_path / "easy_vqa.tsv") == 9673
    assert same((0, 1, 5000, 9672), tmp_path / "easy_vqa.tsv")


def test_the_program_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "easy_vqa.py").write_text("raise ImportError\n")
    program = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['x', 'out.tsv']; "
    program += "runpy.run_module('lab.experiments.eval.easy_vqa', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n"), done.stderr[:5]) == (2, 1, "lab: "), done.stderr
    assert not (tmp_path / "out.tsv").exists()
