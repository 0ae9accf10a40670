"""A small file of questions about pictures, and a job that is run in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from lab.experiments.eval.config import register
from lab.experiments.eval.job import execute
from lab.experiments.eval.words import overrides_of
from reference.toy_evaluation import COLOURS, distilled_from, picture, write_tsv


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Eight questions in the words of the task that ships."""
    rows = [
        {
            "index": str(place),
            "image": picture(COLOURS[place % 4]),
            "question": "How many pictures show a bag?" if place % 2 else "Which colour frames the bag?",
            "answer": "zero" if place % 2 else COLOURS[place % 4],
            "category": "count" if place % 2 else "colour",
        }
        for place in range(8)
    ]
    return write_tsv(tmp_path / "questions.tsv", rows)


@pytest.fixture
def evaluated(outputs: Path) -> Callable[..., Path]:
    """Run `lab eval` with these words; where the run is."""

    def run(name: str, *words: str) -> Path:
        register()
        typed = overrides_of([*words, "threads=1", "resamples=50", "figures=[]"])
        with initialize_config_module("lab.conf", version_base="1.3"):
            config = compose("eval", overrides=typed)
        folder = outputs / "eval" / "runs" / name
        execute(config, folder, typed)
        return folder

    return run


@pytest.fixture(scope="session")
def distilled_folder(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """An exported student of the small teacher: linear in every layer, after one stage of two steps."""
    return distilled_from(teacher, tmp_path_factory.mktemp("distilled") / "student", "stage=1")
