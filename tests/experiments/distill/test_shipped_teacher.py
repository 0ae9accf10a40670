"""The teacher that ships knows its task, and a newcomer's stages start from it."""

import json

import pytest
import torch

from lab.core.models.families import TeacherConfig
from lab.core.models.folder import ModelFolder
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.hovle.model import Hovle
from lab.experiments.distill.baselines import Baseline, ablate_images
from lab.experiments.distill.data import Data, HeldOut, PromptConfig, tokenizer_of
from lab.experiments.distill.data_sources import DataConfig
from lab.experiments.distill.evaluate import compare_baselines
from lab.experiments.distill.tasks.picture_questions import PictureQuestionsConfig
from lab.experiments.distill.tasks.scenes import QUESTIONS
from lab.experiments.distill.teacher import folder_of, load_teacher

CPU = torch.device("cpu")
SHIPPED = TeacherConfig(path="shipped")


@pytest.fixture(scope="module")
def teacher() -> Hovle:
    model = load_teacher(SHIPPED, device=CPU, seed=0)
    assert isinstance(model, Hovle)
    return model


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    folder = folder_of(SHIPPED)
    assert folder is not None
    architecture = ModelFolder(folder).architecture
    assert isinstance(architecture, HovleConfig)
    prompt = PromptConfig()
    # another seed than that of the data that the teacher was trained and measured on
    config = DataConfig(picture_questions=PictureQuestionsConfig())
    data = Data(config, prompt, architecture, tokenizer_of(ModelFolder(folder), prompt, config), seed=7)
    return data.held_out(6, batch_size=64)


@pytest.mark.slow
def test_it_answers_nine_of_ten_questions_about_pictures_it_never_saw_and_guesses_without_them(
    teacher: Hovle, held_out: HeldOut
) -> None:
    asked = [Baseline("teacher", teacher), Baseline("ablated", teacher, ablate_images)]
    rows, counts = compare_baselines(asked, held_out, device=CPU, chunk_size=1024, follow=lambda number: None)
    assert set(counts.by_kind) == set(QUESTIONS)
    assert counts.accuracy > 0.9
    ablated = rows[-1]
    assert ablated["kind"] == "result"
    assert ablated["accuracy"] < 0.15, "without pictures it guesses"
    assert ablated["kl_per_answer_token"] > 1


def test_it_is_small_enough_to_ship() -> None:
    folder = folder_of(SHIPPED)
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    assert json.loads((folder / "config.json").read_text())["model_type"]
