"""What the project knows of a data source: one `SourceSpec` in the source's own file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.core.data.contents import Content, contents_in_options
from lab.core.data.prompt_format import PromptFormat
from lab.core.data.stream import Source
from lab.core.data.tokenizers import WordTokenizer
from lab.core.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRequest:
    """What a source is opened for.

    Attributes:
        split: `train` or `test`.
        seed: random seed of the samples, for a source that draws them.
        tokenizer: of the model.
        prompt_format: of the model.
        has_lessons: whether a new teacher is trained, which may need easier samples first.
    """

    split: str
    seed: int
    tokenizer: Tokenizer
    prompt_format: PromptFormat
    has_lessons: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFacts:
    """What a task knows that data of the user does not tell.

    Attributes:
        tokenizer: the vocabulary of the task; its argument is the system message, whose words it may include.
        chance: for each type of question, the accuracy of always giving the most frequent answer.
    """

    tokenizer: Callable[[str], WordTokenizer]
    chance: Callable[[], dict[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """A source of samples.

    Attributes:
        kind: its name: conf/data/<kind>.yaml chooses it, and its options are the keys `data.<kind>.KEY`.
        options: a dataclass, the schema of these keys.
        open: the samples of one split. Raises ConfigError if the model cannot read them, InputError if a file is
            missing or damaged, or there is no such split.
        refuse_missing: refuses options that name files which do not exist, and reads none: commands call it before they
            read a model. Raises InputError.
        contents: what the files hold from which the samples are made, by their names: a run goes on only with the same.
            Those that an option names, unless given; pictures that samples name are not among them. Raises InputError.
        has_images: whether every sample shows images, so that a text-only model cannot read them.
        task: of a task that brings its own vocabulary, with which a new teacher can be trained; None for other data.
    """

    kind: str
    options: type
    open: Callable[[Any, SourceRequest], Source]
    refuse_missing: Callable[[Any], None] = lambda options: None
    contents: Callable[[Any], Mapping[str, Content]] = contents_in_options
    has_images: bool = False
    task: TaskFacts | None = None
