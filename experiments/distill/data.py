"""Training and held-out batches for one model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from lab.core.data.bad_samples import OnBadSample
from lab.core.data.batch import Batch
from lab.core.data.prompt_format import MOST_TILES, PromptFormat
from lab.core.data.source_spec import SourceRequest
from lab.core.data.stream import FiniteSource, Source, Stream, refusal, usable_sample
from lab.core.errors import ConfigError, InputError
from lab.core.models.config import ModelConfig, VisionConfig, max_length
from lab.core.models.folder import ModelFolder
from lab.core.models.vision_language_config import VisionEncoderConfig
from lab.core.ranges import LARGEST_COUNT, refuse_outside
from lab.core.runs.random_streams import Seeds
from lab.core.streams import say_once
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.data_sources import DataConfig, data_sources
from lab.experiments.distill.usable import refuse_unusable


@dataclass(kw_only=True, slots=True)
class PromptConfig:
    """How samples are formatted for the model."""

    system: str = ""
    """The system message. A public checkpoint's scores depend on it: copy it from the release's `conversation.py`."""
    max_tiles: int = 12
    """Maximum number of tiles of an image, not counting the thumbnail."""
    max_length: int | None = None
    """Maximum number of tokens of a sample, longer ones are bad samples; null: the context length of the model."""

    def __post_init__(self) -> None:
        refuse_outside(self, "max_tiles", at_least=1, at_most=MOST_TILES)
        refuse_outside(self, "max_length", at_least=1, at_most=LARGEST_COUNT)


class Data:
    """The samples of both splits, for one model."""

    def __init__(
        self,
        config: DataConfig,
        prompt: PromptConfig,
        architecture: ModelConfig,
        tokenizer: Tokenizer,
        *,
        seed: int,
        is_packed: bool = False,
    ) -> None:
        """Check that the model can read the samples.

        Args:
            config: the data source.
            prompt: how they are formatted.
            architecture: the model's architecture.
            tokenizer: the model's tokenizer.
            seed: random seed.
            is_packed: whether the samples of a training's batch are packed into one row.

        Raises:
            ConfigError: if the model cannot read them.
        """
        if prompt.max_length is not None and prompt.max_length > max_length(architecture):
            raise ConfigError(
                f"prompt.max_length={prompt.max_length}: the teacher was trained on at most {max_length(architecture)} "
                "tokens; lower it"
            )
        if config.source.has_images and architecture.vision is None:
            others = [kind for kind, source in data_sources().items() if not source.has_images]
            raise ConfigError(
                f"data={config.source.kind} shows images but the teacher reads text only; choose "
                f"data={' or '.join(others)}"
            )
        self._config = config
        self._tokenizer = tokenizer
        self._max_length = prompt.max_length or max_length(architecture)
        self._seeds = Seeds(seed)
        self._is_packed = is_packed
        self._prompt_format = prompt_format(prompt, architecture)

    def refuse_broken(self) -> None:
        """Reject files that cannot be used. Every sample of a small file is read, a few dozen of a large one.

        If bad samples are skipped, files are rejected if nearly all of those are bad, or all of a split; else for the
        first of them.

        Raises:
            InputError: naming the file, the line and what is wrong with it.
        """
        refuse_unusable(partial(self._source, seed=0), self._errors_of)

    def _errors_of(self, source: FiniteSource, places: range) -> list[str]:
        errors = []
        for index in places:
            try:
                usable_sample(source, index, max_length=self._max_length)
            except InputError as error:
                if self._config.policy is OnBadSample.refuse:
                    raise refusal(error) from None
                errors.append(str(error))
        return errors

    def stream(self, purpose: str, *indices: int, batch_size: int, has_lessons: bool = False) -> Stream:
        """Training batches, in a different order for each purpose and index; a new teacher begins with lessons.

        Raises:
            InputError: if a file is missing or damaged.
        """
        return self._stream("train", self._seed(purpose, *indices), batch_size, has_lessons=has_lessons)

    def held_out(self, num_batches: int, *, batch_size: int) -> "HeldOut":
        """The first held-out batches: always the same, from samples that are never trained on, none of them twice.

        Raises:
            InputError: if a file is missing or damaged.
        """
        return HeldOut(self._stream("test", self._seed("held out"), batch_size), num_batches)

    def say_few_held_out(self, num_asked: int) -> None:
        """Say it where fewer samples are held out than an evaluation asks for.

        Raises:
            InputError: if a file is missing or damaged.
        """
        source = self._source("test", seed=0)
        if isinstance(source, FiniteSource) and len(source) < num_asked:
            say_once(
                f"{len(source):,} samples are held out, fewer than the {num_asked:,} that evaluation.num_batches and "
                "evaluation.batch_size ask for; each is read once"
            )

    def _seed(self, purpose: str, *indices: int) -> int:
        return int(self._seeds.numpy(purpose, *indices).integers(2**31))

    def _stream(self, split: str, seed: int, batch_size: int, *, has_lessons: bool = False) -> Stream:
        source = self._source(split, seed=seed, has_lessons=has_lessons)
        return Stream(
            source,
            batch_size=batch_size,
            max_length=self._max_length,
            seed=seed,
            on_bad_sample=self._config.policy,
            is_packed=self._is_packed and split == "train",
            ends=split == "test",
        )

    def _source(self, split: str, *, seed: int, has_lessons: bool = False) -> Source:
        request = SourceRequest(
            split=split,
            seed=seed,
            tokenizer=self._tokenizer,
            prompt_format=self._prompt_format,
            has_lessons=has_lessons,
        )
        return self._config.source.open(self._config.options, request)


class HeldOut:
    """The first batches of a stream, produced again in every iteration, so that one at a time is in memory.

    There are fewer where the stream ends before.
    """

    def __init__(self, stream: Stream, num_batches: int) -> None:
        self._stream = stream
        self._start = stream.state
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._stream.most_batches(self._num_batches)

    def __iter__(self) -> Iterator[Batch]:
        self._stream.restore(self._start)
        for _ in range(self._num_batches):
            if self._stream.has_ended:
                return
            yield self._stream.next_batch()


def prompt_format(prompt: PromptConfig, architecture: ModelConfig) -> PromptFormat:
    """How prompts are written for a model; a text-only model has no use for the sizes of tiles."""
    vision = architecture.vision
    if vision is None:
        return PromptFormat(system=prompt.system, max_tiles=prompt.max_tiles, has_images=False)
    if isinstance(vision, VisionEncoderConfig):
        return PromptFormat(
            system=prompt.system, image_size=vision.image_size, max_tiles=prompt.max_tiles, tower=vision.tower_format
        )
    assert isinstance(vision, VisionConfig), "the other way to read images"
    return PromptFormat(
        system=prompt.system,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        shuffle_factor=vision.shuffle_factor,
        reads_every_patch=vision.reads_every_patch,
        max_tiles=prompt.max_tiles,
    )


def tokenizer_of(folder: ModelFolder | None, prompt: PromptConfig, data: DataConfig | None) -> Tokenizer:
    """The tokenizer in a teacher's folder, or in its GGUF file; without either, the vocabulary of the task.

    Raises:
        BackendError: if a GGUF file cannot be read without packages that are missing.
        CheckpointError: if there is none in the folder, or it cannot be read.
        ConfigError: if there is neither a folder nor a task with a vocabulary.
    """
    if folder is not None:
        return folder.tokenizer()
    task = None if data is None else data.source.task
    if task is None:
        raise ConfigError("teacher.path is null, and the data bring no vocabulary; give the folder of a teacher")
    return task.tokenizer(prompt.system)
