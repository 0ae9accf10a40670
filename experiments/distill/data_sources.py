"""The data that a configuration names: a task that ships, a file of conversations, or plain text."""

from dataclasses import dataclass

from lab.core.data.chat_template import ChatConfig
from lab.core.data.jsonl import ConversationFile, ConversationFileConfig
from lab.core.data.stream import Source
from lab.core.data.texts import TextConfig, Texts
from lab.core.data.tiling import TilingConfig
from lab.core.data.tokenizers import Tokenizer
from lab.core.errors import ConfigError
from lab.experiments.distill.tasks.named_digits import NamedDigits, NamedDigitsConfig
from lab.experiments.distill.tasks.picture_questions import PictureQuestions, PictureQuestionsConfig


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """One source of samples; the others are null."""

    picture_questions: PictureQuestionsConfig | None = None
    """The task that ships, with a trained teacher."""
    named_digits: NamedDigitsConfig | None = None
    """A smaller one, in which a teacher is trained in a minute."""
    conversations: ConversationFileConfig | None = None
    """A JSONL file as InternVL keeps them."""
    text: TextConfig | None = None
    """Plain text, for models that read nothing else."""

    def __post_init__(self) -> None:
        names = ("picture_questions", "named_digits", "conversations", "text")
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ConfigError(f"data must have exactly one of {', '.join(names)}; make the others null")

    @property
    def task(self) -> PictureQuestionsConfig | NamedDigitsConfig | None:
        """The task that ships, which has words and a chance of its own; None for data of the user's."""
        return self.picture_questions or self.named_digits


def open_source(
    config: DataConfig, *, split: str, seed: int, tokenizer: Tokenizer, chat: ChatConfig, tiling: TilingConfig
) -> Source:
    """The samples of one split, `train` or `test`; the seed is that of a task that ships.

    Raises:
        ConfigError: if the pictures of the task are not cut as it needs them.
        InputError: if a file is missing or damaged, or there is no such split.
    """
    if config.picture_questions is not None:
        return PictureQuestions(
            config.picture_questions, split=split, seed=seed, tokenizer=tokenizer, chat=chat, tiling=tiling
        )
    if config.named_digits is not None:
        return NamedDigits(config.named_digits, split=split, seed=seed, tokenizer=tokenizer, tiling=tiling)
    if config.text is not None:
        return Texts(config.text, split=split, tokenizer=tokenizer, image_size=tiling.image_size)
    assert config.conversations is not None, "DataConfig has one of them"
    return ConversationFile(config.conversations, split=split, tokenizer=tokenizer, chat=chat, tiling=tiling)
