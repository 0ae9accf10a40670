"""Conversations are read from JSONL as InternVL keeps them, and a split holds what its hash says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.core.data.conversations import Conversations, ConversationsConfig
from lab.core.data.prompt_format import IMAGE_CONTEXT, PromptFormat
from lab.core.data.stream import Stream
from lab.core.data.tiling import cut_tiles
from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import ConfigError, InputError

TOKENIZER = WordTokenizer(["\n", "?", "system", "user", "assistant", "what", "bag", "shoe", *map(str, range(500))])
FORMAT = PromptFormat(image_size=8, patch_size=4, max_tiles=4, reads_every_patch=True)


def record(*turns: str, image: Any = None) -> dict[str, Any]:
    speakers = ("human", "gpt") * len(turns)
    values = [{"from": speaker, "value": turn} for speaker, turn in zip(speakers, turns, strict=False)]
    return {"conversations": values} | ({} if image is None else {"image": image})


def write(folder: Path, records: Sequence[dict[str, Any] | str]) -> Path:
    path = folder / "chats.jsonl"
    lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def opened(path: Path, *, split: str = "train", share: float = 0.0) -> Conversations:
    config = ConversationsConfig(path=path, image_folder=path.parent, held_out_share=share)
    return Conversations(config, split=split, tokenizer=TOKENIZER, prompt_format=FORMAT)


def picture(folder: Path, name: str, width: int = 16, height: int = 8) -> Image.Image:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    image.save(folder / name)
    return image


def test_pictures_are_cut_and_their_tokens_put_in(tmp_path: Path) -> None:
    wide, small = picture(tmp_path, "wide.png"), picture(tmp_path, "small.png", 8, 8)
    source = opened(
        write(
            tmp_path,
            [
                record("<image>\nwhat?", "bag", image="wide.png"),
                record("<image>?<image>what?", "bag", "what?", "shoe", image=["small.png", "wide.png"]),
                record("what?", "shoe"),
                "",
                record("what?", "shoe", image=[]),
            ],
        )
    )
    assert len(source) == 4
    np.testing.assert_array_equal(source[0].tiles, cut_tiles(wide, FORMAT))
    np.testing.assert_array_equal(source[1].tiles, np.concatenate((cut_tiles(small, FORMAT), cut_tiles(wide, FORMAT))))
    assert source[1].kinds == ("answer", "answer")
    context = TOKENIZER.id_of(IMAGE_CONTEXT)
    for index, num_tiles in enumerate((3, 4, 0, 0)):
        sample = source[index]
        assert sample.tiles.shape == (num_tiles, 8, 8, 3)
        assert (sample.conversation.llm_ids == context).sum() == num_tiles
        assert (sample.conversation.embedding_ids == context).sum() == 4 * num_tiles


def test_the_place_in_the_list_says_whose_turn_it_is(tmp_path: Path) -> None:
    swapped = {"conversations": [{"from": "gpt", "value": "what?"}, {"from": "human", "value": "bag"}]}
    source = opened(write(tmp_path, [record("what?", "bag"), swapped]))
    np.testing.assert_array_equal(source[0].conversation.labels, source[1].conversation.labels)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", "line 2: is not valid JSON"),
        ("[]", "line 2: is not a JSON object"),
        ("{}", "pairs of question and answer"),
        (record("what?"), "pairs of question and answer"),
        (record("what?", "bag", "what?"), "pairs of question and answer"),
        ({"conversations": "what?"}, "its conversation is not valid JSON"),
        ({"conversations": "3"}, "pairs of question and answer"),
        ({"conversations": [{"from": "human"}, {"value": "bag"}]}, "pairs of question and answer"),
        ({"conversations": ["what?", "bag"]}, "pairs of question and answer"),
        (record("what?", "bag", image=3), "image is neither"),
        (record("what?", "bag", image=[3]), "image is neither"),
        (record("what?", "bag", image="gone.png"), r"gone\.png does not exist"),
        (record("what?", "bag", image="chats.jsonl"), r"chats\.jsonl is not an image"),
        (record("<image><image>what?", "bag", image="wide.png"), "2 <image> marks but 1 images"),
        (record("what?", "bag", image=["wide.png", "wide.png"]), "2 images but 0 <image> marks"),
        (record("hat?", "bag"), "'hat'"),
    ],
)
def test_a_broken_line_is_named_when_it_is_read(line: dict[str, Any] | str, match: str, tmp_path: Path) -> None:
    picture(tmp_path, "wide.png")
    source = opened(write(tmp_path, [record("what?", "bag"), line]))
    assert len(source) == 2
    source[0]
    with pytest.raises(InputError, match=match) as caught:
        source[1]
    assert "chats.jsonl, line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def number(source: Conversations, index: int) -> int:
    return int(TOKENIZER.tokens[source[index].conversation.llm_ids[7]])


def test_the_splits_part_the_file_and_keep_their_samples_when_it_grows(tmp_path: Path) -> None:
    records = [record(f"{i}?", "bag") for i in range(400)]

    def parts(lines: Sequence[dict[str, Any]]) -> dict[str, set[int]]:
        sources = {split: opened(write(tmp_path, lines), split=split, share=0.25) for split in ("train", "test")}
        return {split: {number(source, i) for i in range(len(source))} for split, source in sources.items()}

    whole, half = parts(records), parts(records[200:][::-1])
    assert whole["train"] | whole["test"] == set(range(400))
    assert not whole["train"] & whole["test"]
    # binomial, standard error 8.7
    assert abs(len(whole["test"]) - 100) < 40
    assert half["test"] == {i for i in whole["test"] if i >= 200}


def test_samples_with_the_same_pictures_are_in_the_same_split(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    picture(tmp_path, "b.png")
    records = [record("<image>" * 2 + f"{i}?", "bag", image=["a.png", "b.png"]) for i in range(20)]
    path = write(tmp_path, records)
    sizes = []
    for split in ("train", "test"):
        try:
            sizes.append(len(opened(path, split=split, share=0.5)))
        except InputError:
            sizes.append(0)
    assert sorted(sizes) == [0, 20]


def test_a_stream_of_a_file_goes_on_from_any_point_with_its_counts(tmp_path: Path) -> None:
    records: list[dict[str, Any] | str] = [record(f"{i}?", "bag") for i in range(12)]
    records[3] = "{"
    records[7] = record("7?" * 40, "bag")
    source = opened(write(tmp_path, records))
    whole = Stream(source, batch_size=3, max_length=40, seed=1)
    states = []
    drawn = []
    for _ in range(8):
        states.append(whole.state)
        drawn.append(whole.next_batch().llm_ids.tolist())
    # two epochs and a part of the third
    assert whole.state["num_left_out"] in (4, 5, 6)
    assert whole.state["position"] == 24 + whole.state["num_left_out"]
    for start, state in enumerate(states):
        resumed = Stream(source, batch_size=3, max_length=40, seed=1)
        resumed.restore(state)
        assert [resumed.next_batch().llm_ids.tolist() for _ in range(8 - start)] == drawn[start:]


def test_a_file_that_is_missing_or_has_no_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"chats\.jsonl cannot be read"):
        opened(tmp_path / "chats.jsonl")
    path = write(tmp_path, [record("what?", "bag")])
    with pytest.raises(InputError, match="no test sample"):
        opened(path, split="test")
    with pytest.raises(InputError, match="split='all'"):
        opened(path, split="all")


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_of_the_unit_interval_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, InputError), match="held_out_share"):
        ConversationsConfig(path=tmp_path, image_folder=tmp_path, held_out_share=share)
