"""What every data source keeps to. A new source is tested by being there.

A source whose YAML file leaves options open (`???`) needs files: a function in `FILES` writes them.
"""

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from lab.core.data.chat_template import IGNORED
from lab.core.data.prefetch import Prefetched
from lab.core.data.prompt_format import PromptFormat
from lab.core.data.sample import Sample
from lab.core.data.source_spec import SourceRequest, SourceSpec
from lab.core.data.stream import SPLITS, FiniteSource, Source, Stream
from lab.core.errors import ConfigError, InputError
from lab.core.hydra_schema import to_typed
from lab.experiments.distill.data_sources import data_sources
from reference.characters import Characters
from reference.easy_vqa_package import easy_vqa_package

CONF = Path(__file__).parents[3] / "conf"
NUM_SAMPLES = 24


def conversations(folder: Path) -> dict[str, Any]:
    """Forty questions, each about a different picture."""
    lines = []
    for number in range(40):
        Image.new("L", (8, 8), color=5 * number).save(folder / f"{number}.png")
        turns = [{"value": f"<image> Which, {number}?"}, {"value": f"it is {number}"}]
        lines.append(json.dumps({"image": f"{number}.png", "conversations": turns}) + "\n")
    (folder / "chats.jsonl").write_text("".join(lines))
    return {"path": folder / "chats.jsonl", "image_folder": folder, "held_out_share": 0.3}


FILES: dict[str, Callable[[Path], dict[str, Any]]] = {"conversations": conversations}


def options_of(spec: SourceSpec, folder: Path) -> Any:
    """The options that the YAML file of a source gives, completed by `FILES`."""
    given = OmegaConf.load(CONF / "data" / f"{spec.kind}.yaml")[spec.kind]
    more = FILES[spec.kind](folder) if spec.kind in FILES else {}
    assert not OmegaConf.missing_keys(OmegaConf.merge(given, more)), f"FILES must complete the options of {spec.kind}"
    return to_typed(OmegaConf.merge(OmegaConf.structured(spec.options), given, more), spec.options)


def formats() -> list[PromptFormat]:
    """The prompt formats of the teachers in conf/, small images first."""
    found = []
    for path in (CONF / "teacher").glob("*.yaml"):
        vision = OmegaConf.select(OmegaConf.load(path), "hovle.vision")
        if vision is not None:
            sizes = {name: vision[name] for name in ("image_size", "patch_size", "shuffle_factor")}
            found.append(PromptFormat(**sizes, max_tiles=4))
    return sorted(found, key=lambda each: each.image_size)


class Opened:
    """A source with its options, opened as often as a test needs it."""

    def __init__(self, spec: SourceSpec, folder: Path) -> None:
        self.spec = spec
        self.options = options_of(spec, folder)
        tokenizer = Characters() if spec.task is None else spec.task.tokenizer("")
        self.request = SourceRequest(split="train", seed=3, tokenizer=tokenizer, prompt_format=formats()[0])
        for written in formats():
            self.request = replace(self.request, prompt_format=written)
            try:
                spec.open(self.options, self.request)
            except ConfigError:
                continue
            break

    def source(self, **changes: Any) -> Source:
        return self.spec.open(self.options, replace(self.request, **changes))

    def samples(self, **changes: Any) -> list[Sample]:
        source = self.source(**changes)
        number = min(NUM_SAMPLES, len(source)) if isinstance(source, FiniteSource) else NUM_SAMPLES
        return [source[index] for index in range(number)]


@pytest.fixture(scope="module", autouse=True)
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small packages in the place of those that bring data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "easy_vqa", easy_vqa_package(tmp_path_factory.mktemp("easy_vqa")))
        yield


@pytest.fixture(scope="module", params=data_sources())
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(data_sources()[request.param], tmp_path_factory.mktemp("data"))


def content(sample: Sample) -> tuple[bytes, bytes]:
    return sample.tiles.tobytes(), sample.conversation.llm_ids.tobytes()


@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_what_a_model_reads(opened: Opened, split: str) -> None:
    side = opened.request.prompt_format.image_size
    for sample in opened.samples(split=split):
        conversation = sample.conversation
        assert sample.tiles.dtype == np.uint8
        assert sample.tiles.shape[1:] == (side, side, 3)
        assert (len(sample.tiles) > 0) or not opened.spec.has_images
        for ids in (conversation.llm_ids, conversation.embedding_ids):
            assert ids.dtype == np.int64
            assert 0 <= ids.min() <= ids.max() < len(opened.request.tokenizer)
        assert len(sample.kinds) == len(conversation.answers) > 0
        is_answer = np.zeros(len(conversation.llm_ids), bool)
        for start, stop in conversation.answers:
            assert 0 < start < stop <= len(conversation.llm_ids)
            is_answer[start:stop] = True
        np.testing.assert_array_equal(conversation.labels, np.where(is_answer, conversation.llm_ids, IGNORED))


def test_a_task_knows_how_often_a_guess_is_right(opened: Opened) -> None:
    if opened.spec.task is not None:
        chance = opened.spec.task.chance()
        assert {kind for sample in opened.samples() for kind in sample.kinds} <= set(chance)
        assert all(0 < share <= 1 for share in chance.values())


def test_the_same_seed_gives_the_same_samples(opened: Opened) -> None:
    assert list(map(content, opened.samples())) == list(map(content, opened.samples()))
    source = opened.source()
    assert content(source[2]) == content(source[2]), "whatever was read before"


def test_training_never_sees_a_held_out_sample(opened: Opened) -> None:
    train, test = (set(map(content, opened.samples(split=split))) for split in SPLITS)
    assert train
    assert test
    assert not train & test


def test_a_stream_goes_on_where_it_stood(opened: Opened) -> None:
    def stream() -> Stream:
        return Stream(opened.source(), batch_size=3, max_length=10**6, seed=1)

    first = stream()
    for _ in range(3):
        first.next_batch()
    state = first.state
    expected = [first.next_batch().llm_ids for _ in range(2)]
    second = stream()
    second.restore(state)
    assert all(second.next_batch().llm_ids.equal(ids) for ids in expected)


def test_a_copy_for_another_process_gives_the_same_samples(opened: Opened) -> None:
    source = opened.source()
    copy = pickle.loads(pickle.dumps(source))
    assert [content(copy[index]) for index in range(3)] == [content(source[index]) for index in range(3)]


@pytest.mark.slow
def test_batches_made_ahead_are_the_same(opened: Opened) -> None:
    def stream() -> Stream:
        return Stream(opened.source(), batch_size=3, max_length=10**6, seed=1)

    expected = stream()
    with Prefetched(stream()) as batches:
        for _ in range(20):
            ours, theirs = batches.next_batch(), expected.next_batch()
            for field in fields(ours):
                value, expected_value = getattr(ours, field.name), getattr(theirs, field.name)
                assert value.equal(expected_value) if isinstance(value, Tensor) else value == expected_value
            assert batches.state == expected.state


def test_there_is_no_third_split(opened: Opened) -> None:
    with pytest.raises(InputError, match="split='both' must be one of train, test"):
        opened.source(split="both")


def is_refused(options: Any, name: str, value: Any) -> bool:
    try:
        replace(options, **{name: value})
    except (ConfigError, InputError):
        return True
    return False


def test_bad_options_are_refused_in_one_line_that_names_the_key(opened: Opened) -> None:
    messages = []
    for field in fields(opened.spec.options):
        value = getattr(opened.options, field.name)
        for bad in {int: (-1, 10**9), float: (-0.5, 1.5, float("nan"))}.get(type(value), ()):
            if isinstance(value, int) and bad > 0 and not is_refused(opened.options, field.name, bad):
                # a length may have no upper end
                continue
            with pytest.raises((ConfigError, InputError), match=field.name) as refused:
                replace(opened.options, **{field.name: bad})
            messages.append(str(refused.value))
    assert messages
    assert not any("\n" in message for message in messages)


def test_files_that_are_missing_are_named(opened: Opened, tmp_path: Path) -> None:
    paths = [field.name for field in fields(opened.spec.options) if "Path" in str(field.type)]
    for name in islice(paths, 1):
        missing = replace(opened.options, **{name: tmp_path / "gone"})
        with pytest.raises(InputError, match="gone") as refused:
            opened.spec.open(missing, opened.request)
        assert "\n" not in str(refused.value)
