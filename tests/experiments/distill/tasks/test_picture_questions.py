"""A sample is a function of seed and index, has the form of the real thing, and keeps the splits apart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from lab.core.data.batch import to_tensors
from lab.core.data.prompt_format import IMAGE_CONTEXT, PromptFormat
from lab.core.data.sample import Sample, pad
from lab.core.data.stream import Stream
from lab.core.errors import ConfigError, InputError
from lab.experiments.distill.tasks.picture_questions import (
    PictureQuestions,
    PictureQuestionsConfig,
    picture_questions_tokenizer,
)
from lab.experiments.distill.tasks.pictures import load_pictures
from lab.experiments.distill.tasks.scenes import COLOURS, QUESTIONS

SYSTEM = "Answer briefly."
TOKENIZER = picture_questions_tokenizer(SYSTEM)
FORMAT = PromptFormat(system=SYSTEM, image_size=28, patch_size=7, max_tiles=4)


def task(
    split: str = "train",
    *,
    seed: int = 0,
    config: PictureQuestionsConfig | None = None,
    reads_every_patch: bool = False,
) -> PictureQuestions:
    return PictureQuestions(
        config or PictureQuestionsConfig(),
        split=split,
        seed=seed,
        tokenizer=TOKENIZER,
        prompt_format=replace(FORMAT, reads_every_patch=reads_every_patch),
    )


def fingerprint(sample: Sample) -> tuple[bytes, bytes]:
    return sample.tiles.tobytes(), sample.conversation.llm_ids.tobytes()


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    forwards, backwards = task(), task()
    first = [fingerprint(forwards[i]) for i in range(20)]
    assert [fingerprint(backwards[i]) for i in reversed(range(20))][::-1] == first
    assert len(set(first)) == 20
    assert fingerprint(task(seed=1)[3]) != first[3]
    assert task("test").scene(3) != forwards.scene(3)


def test_a_prompt_reads_as_its_scene_says() -> None:
    source = task()
    scene, sample = source.scene(7), source[7]
    text = TOKENIZER.decode(sample.conversation.llm_ids.tolist())
    pictures = "".join(f"<img>{'<IMG_CONTEXT>' * (4 * (1 if len(words) == 1 else 3))}</img>\n" for words in scene.shown)
    turns = [f"{question.text}<|im_end|><|im_start|>assistant\n{question.answer}" for question in scene.questions]
    chat = "<|im_end|><|im_start|>user\n".join(turns)
    assert text == f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n{pictures}{chat}<|im_end|>"
    assert sample.kinds == tuple(question.kind for question in scene.questions)


def test_every_sample_has_the_tokens_that_its_tiles_make() -> None:
    before, after = task(), task(reads_every_patch=True)
    context = TOKENIZER.id_of(IMAGE_CONTEXT)
    for i in range(20):
        num_tiles = sum(1 if len(words) == 1 else 3 for words in before.scene(i).shown)
        assert len(before[i].tiles) == num_tiles
        assert (before[i].conversation.llm_ids == context).sum() == num_tiles * 4
        assert (after[i].conversation.embedding_ids == context).sum() == num_tiles * 16
        assert len(before[i].conversation.llm_ids) <= 150
        np.testing.assert_array_equal(after[i].conversation.llm_ids, before[i].conversation.llm_ids)


def inside(tile: UInt8[ndarray, "28 28 3"]) -> bytes:
    """What a tile shows within its frame."""
    return tile[4:-4, 4:-4].tobytes()


def frame_of(tile: UInt8[ndarray, "28 28 3"]) -> UInt8[ndarray, "_ 3"]:
    is_frame = np.ones((28, 28), bool)
    is_frame[4:-4, 4:-4] = False
    return tile[is_frame]


def test_a_pair_is_two_framed_tiles_and_a_view_of_both() -> None:
    pictures = load_pictures("train", garments=None, digits=None).by_word
    known = {
        word: {
            np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC).convert("RGB")).tobytes()
            for image in images
        }
        for word, images in pictures.items()
    }
    source = task(config=PictureQuestionsConfig(pair_share=0.5))
    for i in range(30):
        scene, tiles = source.scene(i), iter(source[i].tiles)
        for frame, words in zip(scene.frames, scene.shown, strict=True):
            things = [next(tiles) for _ in words]
            for word, tile in zip(words, things, strict=True):
                assert inside(tile) in known[word]
                assert (frame_of(tile) == COLOURS[frame]).all()
            if len(words) == 2:
                both = Image.fromarray(np.concatenate(things, axis=1))
                view = np.asarray(both.resize((28, 28), Image.Resampling.BICUBIC))
                np.testing.assert_array_equal(next(tiles), view)
        assert next(tiles, None) is None


def test_no_test_picture_is_seen_in_training() -> None:
    config = PictureQuestionsConfig(max_pictures=8)
    tiles = {}
    for split in ("train", "test"):
        source = task(split, config=config)
        tiles[split] = {inside(tile) for i in range(300) for tile in source[i].tiles}
    assert len(tiles["test"]) > 500
    assert not tiles["train"] & tiles["test"]


def test_a_stream_goes_on_from_its_position_alone() -> None:
    whole = Stream(task(), batch_size=4, max_length=150, seed=0)
    for _ in range(3):
        whole.next_batch()
    resumed = Stream(task(), batch_size=4, max_length=150, seed=0)
    resumed.restore(whole.state)
    left, right = whole.next_batch(), resumed.next_batch()
    assert left.llm_ids.tolist() == right.llm_ids.tolist()
    assert (left.pixel_values == right.pixel_values).all()
    assert left.answers == right.answers


def test_a_batch_knows_where_its_answers_are() -> None:
    source = task()
    batch = to_tensors(pad([source[i] for i in range(8)]))
    questions = [question for i in range(8) for question in source.scene(i).questions]
    assert len(batch.answers) == len(questions)
    for answer, question in zip(batch.answers, questions, strict=True):
        text = TOKENIZER.decode(batch.labels[answer.row, answer.start : answer.stop].tolist())
        assert text == f"{question.answer}<|im_end|>"
        assert answer.kind == question.kind


def test_larger_data_sets_ask_the_same_questions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        images = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
        header = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes()
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.tile(np.arange(10, dtype=np.uint8), 4)
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x28" + labels.tobytes())
    mine = task(config=PictureQuestionsConfig(garments=tmp_path, digits=tmp_path))
    assert [mine.scene(i) for i in range(20)] == [task().scene(i) for i in range(20)]
    assert fingerprint(mine[0]) != fingerprint(task()[0])


def test_some_hundred_scenes_use_every_word_of_the_vocabulary() -> None:
    source = task()
    used = {int(index) for i in range(400) for index in source[i].conversation.llm_ids}
    unused = {token for index, token in enumerate(TOKENIZER.tokens) if index not in used}
    assert unused == {"<pad>"}


def test_lessons_come_first_and_leave_the_rest_as_it_is() -> None:
    source, plain = task(config=PictureQuestionsConfig(num_lessons=5)), task()
    for i in range(5):
        scene = source.scene(i)
        assert [question.kind for question in scene.questions] == ["what"]
        assert len(source[i].tiles) == 1
    for i in range(5, 10):
        assert source.scene(i) == plain.scene(i)
        assert fingerprint(source[i]) == fingerprint(plain[i])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"max_pictures": 0}, "max_pictures=0"),
        ({"max_pictures": 9}, "max_pictures=9"),
        ({"pair_share": -0.1}, "pair_share=-0.1"),
        ({"pair_share": float("nan")}, "pair_share=nan"),
        ({"num_lessons": -1}, "num_lessons=-1"),
        ({"num_questions": 0}, "num_questions=0"),
        ({"num_questions": len(QUESTIONS) + 1}, f"num_questions={len(QUESTIONS) + 1}"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PictureQuestionsConfig(**settings)  # type: ignore[arg-type]


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(InputError, match="index=-1"):
        task()[-1]
