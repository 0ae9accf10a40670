"""Every data configuration that ships opens what it names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from lab.core.data.chat_template import ChatConfig
from lab.core.data.jsonl import ConversationFile, ConversationFileConfig
from lab.core.data.stream import Source
from lab.core.data.texts import TextConfig, Texts
from lab.core.data.tiling import TilingConfig
from lab.core.errors import ConfigError
from lab.core.hydra_schema import to_typed
from lab.experiments.distill.data_sources import DataConfig, open_source
from lab.experiments.distill.tasks.named_digits import NamedDigits, named_digits_chance
from lab.experiments.distill.tasks.picture_questions import (
    PictureQuestions,
    PictureQuestionsConfig,
    picture_questions_tokenizer,
)

CONF = Path(__file__).parents[3] / "conf" / "data"
TOKENIZER = picture_questions_tokenizer("")


def composed(name: str, *overrides: str) -> DataConfig:
    changes = OmegaConf.from_dotlist(list(overrides))
    return to_typed(
        OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(CONF / f"{name}.yaml"), changes), DataConfig
    )


def opened(config: DataConfig, split: str = "train") -> Source:
    tiling = TilingConfig(image_size=28, patch_size=7, max_tiles=4)
    return open_source(config, split=split, seed=3, tokenizer=TOKENIZER, chat=ChatConfig(system=""), tiling=tiling)


def test_the_task_that_ships_is_opened_with_its_defaults() -> None:
    config = composed("picture_questions")
    assert config.picture_questions is not None
    assert replace(config.picture_questions, num_lessons=0) == PictureQuestionsConfig()
    config = replace(config, picture_questions=PictureQuestionsConfig())
    source = opened(config, "test")
    assert isinstance(source, PictureQuestions)
    tiling = TilingConfig(image_size=28, patch_size=7, max_tiles=4)
    same = PictureQuestions(
        PictureQuestionsConfig(), split="test", seed=3, tokenizer=TOKENIZER, chat=ChatConfig(system=""), tiling=tiling
    )
    np.testing.assert_array_equal(source[5].conversation.llm_ids, same[5].conversation.llm_ids)


def test_the_smaller_task_is_opened_with_its_words() -> None:
    config = composed("named_digits")
    assert config.task is not None
    words = config.task.words("")
    tiling = TilingConfig(image_size=8, patch_size=4, downsample_ratio=1.0)
    source = open_source(config, split="test", seed=3, tokenizer=words, chat=ChatConfig(system=""), tiling=tiling)
    assert isinstance(source, NamedDigits)
    assert len(source[0].conversation.llm_ids) == 49
    assert config.task.chance() == named_digits_chance()


def test_data_of_the_user_are_no_task() -> None:
    assert DataConfig(text=TextConfig()).task is None


def test_a_file_of_conversations_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"conversations": [{"value": "Which digit?"}, {"value": "two"}]}\n')
    overrides = (f"conversations.path={path}", f"conversations.image_folder={tmp_path}")
    source = opened(composed("conversations", *overrides))
    assert isinstance(source, ConversationFile)
    assert "two" in TOKENIZER.decode(source[0].conversation.llm_ids.tolist())


def test_a_file_of_conversations_needs_its_path() -> None:
    with pytest.raises(ConfigError, match=r"conversations\.path"):
        composed("conversations")


def test_text_is_opened_as_documents_of_a_folder(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.md").write_text("two? " * (number + 1))
    source = opened(composed("text", f"text.folder={tmp_path}", "text.piece_length=6"))
    assert isinstance(source, Texts)
    assert "two" in TOKENIZER.decode(source[0].conversation.llm_ids.tolist())


def test_text_is_by_default_what_comes_with_python() -> None:
    assert composed("text").text == TextConfig()


def test_one_source_and_no_more_is_named(tmp_path: Path) -> None:
    chats = ConversationFileConfig(path=tmp_path, image_folder=tmp_path)
    for config in ({}, {"picture_questions": PictureQuestionsConfig(), "conversations": chats}):
        with pytest.raises(ConfigError, match="exactly one"):
            DataConfig(**config)  # type: ignore[arg-type]
