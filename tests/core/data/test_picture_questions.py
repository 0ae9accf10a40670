"""A sample is a function of seed and index, has the form of the real thing, and keeps the splits apart."""

from pathlib import Path

import numpy as np
import pytest

from lab.core.data.conversations import ChatConfig
from lab.core.data.picture_questions import PictureQuestions, PictureQuestionsConfig, picture_questions_tokenizer
from lab.core.data.pictures import GARMENTS, load_pictures
from lab.core.data.samples import Sample, collate
from lab.core.data.scenes import QUESTIONS
from lab.core.data.stream import Stream
from lab.core.data.tiling import TilingConfig
from lab.core.data.tokenizers import IMAGE_CONTEXT
from lab.core.errors import ConfigError, InputError
from lab.core.models.config import PixelShuffle

SYSTEM = "Answer briefly."
TOKENIZER = picture_questions_tokenizer(SYSTEM)
TILING = TilingConfig(image_size=28, patch_size=7, max_tiles=4)


def task(
    split: str = "train",
    *,
    seed: int = 0,
    config: PictureQuestionsConfig | None = None,
    shuffle: PixelShuffle = PixelShuffle.pre,
) -> PictureQuestions:
    return PictureQuestions(
        config or PictureQuestionsConfig(),
        split=split,
        seed=seed,
        tokenizer=TOKENIZER,
        chat=ChatConfig(system=SYSTEM, pixel_shuffle=shuffle),
        tiling=TILING,
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
    pictures = "".join(
        f"{name}:<img>{'<IMG_CONTEXT>' * (4 * (1 if len(words) == 1 else 3))}</img>\n"
        for name, words in zip(scene.names, scene.shown, strict=True)
    )
    turns = [f"{question.text}<|im_end|><|im_start|>assistant\n{question.answer}" for question in scene.questions]
    chat = "<|im_end|><|im_start|>user\n".join(turns)
    assert text == f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n{pictures}{chat}<|im_end|>"
    assert sample.kinds == tuple(question.kind for question in scene.questions)


def test_every_sample_has_the_tokens_that_its_tiles_make() -> None:
    before, after = task(), task(shuffle=PixelShuffle.post)
    context = TOKENIZER.id_of(IMAGE_CONTEXT)
    for i in range(20):
        assert len(before[i].tiles) == 4 + 3
        assert (before[i].conversation.llm_ids == context).sum() == 7 * 4
        assert (after[i].conversation.embedding_ids == context).sum() == 7 * 16
        assert len(before[i].conversation.llm_ids) <= 150
        np.testing.assert_array_equal(after[i].conversation.llm_ids, before[i].conversation.llm_ids)


def test_a_pair_is_two_tiles_and_a_view_of_both() -> None:
    pictures = load_pictures("train", garments=None, digits=None).by_word
    known = {picture.tobytes() for word in GARMENTS.values() for picture in pictures[word]}
    source = task(config=PictureQuestionsConfig(num_singles=2))
    seen = 0
    for i in range(30):
        scene, tiles = source.scene(i), iter(source[i].tiles)
        for words in scene.shown:
            for word in words:
                tile = next(tiles)
                assert (tile == tile[..., :1]).all()
                # digits are 8 x 8 and come enlarged
                if word in GARMENTS.values():
                    assert tile[..., 0].tobytes() in known
                    seen += 1
            if len(words) == 2:
                thumbnail = next(tiles)
                assert thumbnail[..., 0].tobytes() not in known
        assert next(tiles, None) is None
    assert seen > 20


def test_no_test_picture_is_seen_in_training() -> None:
    config = PictureQuestionsConfig(num_singles=6)
    tiles = {}
    for split in ("train", "test"):
        source = task(split, config=config)
        tiles[split] = {tile.tobytes() for i in range(300) for tile in source[i].tiles}
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
    batch = collate([source[i] for i in range(8)])
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


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_singles": 1}, "num_singles=1"),
        ({"num_pairs": 0}, "num_pairs=0"),
        ({"num_singles": 14, "num_pairs": 3}, "num_singles=14 and num_pairs=3"),
        ({"num_questions": 0}, "num_questions=0"),
        ({"num_questions": len(QUESTIONS) + 1}, "num_questions=9"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PictureQuestionsConfig(**settings)  # type: ignore[arg-type]


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(InputError, match="index=-1"):
        task()[-1]
