"""easy-VQA as training data: from a package with the same functions, and from the real one where it is installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lab.core.data.prompt_format import PromptFormat
from lab.core.data.source_spec import SourceRequest
from lab.core.errors import BackendError, InputError
from lab.experiments.distill.tasks.easy_vqa import (
    EasyVqa,
    EasyVqaConfig,
    easy_vqa_chance,
    easy_vqa_tokenizer,
    most_frequent_answers,
    questions_of,
)
from reference.easy_vqa_package import easy_vqa_package

TOKENIZER = easy_vqa_tokenizer("")


def request(split: str) -> SourceRequest:
    return SourceRequest(
        split=split, seed=0, tokenizer=TOKENIZER, prompt_format=PromptFormat(image_size=28, patch_size=7, max_tiles=4)
    )


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(sys.modules, "easy_vqa", easy_vqa_package(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("package")
def test_a_conversation_is_about_one_image() -> None:
    samples = EasyVqa(EasyVqaConfig(num_questions=4), request("train"))
    # seven questions about each of two images
    assert [len(samples[place].kinds) for place in range(len(samples))] == [4, 3, 4, 3]
    for place, number in enumerate((0, 0, 1, 1)):
        # two by two tiles and a thumbnail
        assert np.array_equal(samples[place].tiles, np.broadcast_to((number, len("train"), 0), (5, 28, 28, 3)))
    text = TOKENIZER.decode(samples[1].conversation.llm_ids.tolist())
    assert text.endswith(
        "is there a red shape?<|im_end|><|im_start|>assistant\nno<|im_end|>"
        "<|im_start|>user\nwhat shape is in the image?<|im_end|><|im_start|>assistant\ncircle<|im_end|>"
    )
    assert len(EasyVqa(EasyVqaConfig(num_questions=1), request("train"))) == 14


@pytest.mark.usefixtures("package")
def test_chance_knows_how_training_questions_are_answered() -> None:
    assert most_frequent_answers() == {
        "is there a red shape?": "no",
        "what color is the shape?": "blue",
        "what shape is in the image?": "circle",
    }
    # one of the two about red is answered yes
    assert easy_vqa_chance() == {"shape": 1, "yes or no": 1 / 2, "colour": 1}


def test_what_is_missing_is_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "test7.png").unlink()
    with pytest.raises(InputError, match=r"test7.png does not exist"):
        EasyVqa(EasyVqaConfig(), request("test"))[0]
    monkeypatch.setattr(sys.modules["easy_vqa"], "get_test_image_paths", dict)
    with pytest.raises(InputError, match="lacks the test image 7; install it again"):
        questions_of("test")
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(BackendError, match="the task easy_vqa needs easy-vqa; pip install easy-vqa"):
        questions_of("test")


def test_the_real_package_speaks_the_words_of_the_vocabulary() -> None:
    pytest.importorskip("easy_vqa")
    for split, number, images in (("train", 38575, 4000), ("test", 9673, 1000)):
        asked = questions_of(split)
        assert (len(asked), len({one.image for one in asked})) == (number, images)
        for words in {(one.text, one.answer) for one in asked}:
            for text in words:
                assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    # as the head of the module and docs/eval.md say
    assert easy_vqa_chance() == pytest.approx({"yes or no": 0.8254, "shape": 0.3477, "colour": 0.1203}, abs=1e-4)
