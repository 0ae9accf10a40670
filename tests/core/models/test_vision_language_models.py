"""llava and internvl of transformers: what lab reads of a folder and of pictures, beside transformers itself."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.core.errors import LabError
from lab.core.models.checkpoint import ONE_FILE
from lab.core.models.decoder import Inputs
from lab.core.models.folder import ModelFolder
from lab.core.models.image_processor import IMAGE_PROCESSOR
from lab.experiments.distill.load import open_model
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.selector import StudentSelector

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from vision_language_checkpoints import processor_of, read_by, write_internvl, write_llava, write_pictures  # noqa: E402

CPU = torch.device("cpu")
CASES: dict[str, Callable[[Path], Any]] = {
    "llava clip llama": write_llava,
    "llava siglip qwen2": lambda folder: write_llava(folder, tower="siglip_vision_model", text="qwen2"),
    "llava, two layers of features": lambda folder: write_llava(folder, vision_feature_layer=[-2, 1]),
    "internvl qwen2, tied": write_internvl,
    # its head is tied by the defaults of transformers, but the weights have one
    "internvl llama": lambda folder: write_internvl(folder, text="llama", tie_word_embeddings=False, max_patches=4),
}
Written = tuple[Path, Any]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A folder, and the model of transformers that is in it."""
    folder = tmp_path_factory.mktemp("model")
    return folder, CASES[request.param](folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    write_llava(tmp_path / "llava")
    return tmp_path / "llava"


def opened(folder: Path) -> OpenedModel:
    return open_model(str(folder), StudentSelector(), device=CPU, precision=None)


@torch.no_grad()
def test_pictures_prompts_and_logits_are_those_of_transformers(written: Written, pictures: list[Path]) -> None:
    folder, theirs = written
    ours, processor = opened(folder), processor_of(folder)
    for count in range(6):
        # one picture needs no mark
        marks = "" if count == 1 else "<image>\n" * count
        turns = [f"{marks}what is this ?", "a red cat .", "and the second ?"]
        found = ours.read_turns(turns, pictures[:count])
        expected = read_by(processor, ["<image>\n" * count + "what is this ?", *turns[1:]], pictures[:count])
        assert found.tokens.equal(expected["input_ids"])
        assert (found.pixel_values is None) == (count == 0)
        if found.pixel_values is not None:
            torch.testing.assert_close(found.pixel_values, expected["pixel_values"], rtol=0, atol=0)
        logits = theirs(**expected).logits
        assert float((ours.model(found) - logits).abs().max()) <= 1e-5 * float(logits.abs().max())


def test_system_messages_and_marks_inside_a_text_are_written_as_transformers_does(
    written: Written, pictures: list[Path]
) -> None:
    folder, _ = written
    ours, processor = opened(folder), processor_of(folder)
    ours = replace(ours, prompt=replace(ours.prompt, system="describe it"))
    turns = ["first <image> second <image> ?", "no .", "and <image>", "yes .", "why"]
    shown = read_by(processor, turns, pictures[:3])
    said = {"role": "system", "content": [{"type": "text", "text": "describe it"}]}
    opening = processor.apply_chat_template([said])
    expected = processor.tokenizer.encode(opening, add_special_tokens=False)
    bos = [] if ours.tokenizer.bos_id is None else [ours.tokenizer.bos_id]
    found = ours.read_turns(turns, pictures[:3]).tokens[0].tolist()
    assert found == [*bos, *expected, *shown["input_ids"][0].tolist()[len(bos) :]]


def test_an_image_token_in_words_is_refused(written: Written, pictures: list[Path]) -> None:
    ours = opened(written[0])
    token = ours.tokenizer.decode([ours.model.config.vision.image_token_id])
    # where the token is the mark itself, it is one mark too many
    expected = "1 <image> marks but 0 images; remove marks or give more images"
    if token != "<image>":
        expected = f"turns holds an image token in 'what is {token} this'; write <image> instead"
    with pytest.raises(LabError) as refusal:
        ours.read_turns([f"what is {token} this"], [])
    assert str(refusal.value) == expected
    with pytest.raises(LabError, match="2 <image> marks but 1 images"):
        ours.read_turns(["<image> <image>"], pictures[:1])


@pytest.mark.parametrize("older", [True, False], ids=["transformers 4", "transformers 5"])
def test_names_of_every_version_are_read(llava: Path, older: bool) -> None:
    expected = ModelFolder(llava).load(device=CPU, dtype=torch.float32).state_dict()

    def named(name: str) -> str:
        if older:
            return name.replace("vision_tower.", "vision_tower.vision_model.")
        head, _, rest = name.partition(".")
        if head != "language_model":
            return f"model.{name}"
        return rest if rest.startswith("lm_head") else f"model.language_model.{rest.removeprefix('model.')}"

    stored = {named(name): tensor for name, tensor in load_file(llava / ONE_FILE).items()}
    save_file(stored, llava / ONE_FILE)
    found = ModelFolder(llava).load(device=CPU, dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())


@torch.no_grad()
def test_a_head_in_the_weights_is_read_whatever_the_defaults_say(tmp_path: Path) -> None:
    theirs = write_internvl(tmp_path, text="llama", tie_word_embeddings=False)
    content = json.loads((tmp_path / "config.json").read_text())
    # the default of transformers is tied
    del content["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    tokens = torch.arange(10, 30)[None]
    logits = theirs(input_ids=tokens).logits
    found = ModelFolder(tmp_path).load(device=CPU, dtype=torch.float32)(Inputs(tokens=tokens))
    assert float((found - logits).abs().max()) <= 1e-5 * float(logits.abs().max())


def test_the_image_processor_may_be_inside_the_processor_s_file(llava: Path) -> None:
    expected = ModelFolder(llava).architecture
    settings = json.loads((llava / "preprocessor_config.json").read_text())
    (llava / "preprocessor_config.json").unlink()
    inside = {"processor_class": "LlavaProcessor", IMAGE_PROCESSOR: settings}
    (llava / "processor_config.json").write_text(json.dumps(inside))
    assert ModelFolder(llava).architecture == expected


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (CONFIG, {"text_config": {"model_type": "opt"}}, r"text_config\.model_type=opt is not implemented, only .*llama"),
    (CONFIG, {"text_config": {"hidden_act": "gelu"}}, r"text_config\.hidden_act=gelu is not implemented"),
    (CONFIG, {"vision_config": {"model_type": "pixtral"}}, r"vision_config\.model_type=pixtral .* clip_vision_model"),
    (CONFIG, {"vision_config": {"hidden_size": "x"}}, r"vision_config is refused by transformers"),
    (CONFIG, {"vision_config": {"hidden_act": "x"}}, r"vision_config cannot be built by transformers"),
    (CONFIG, {"vision_config": {"image_size": 24}}, r"tiles of 16 pixels a side but vision_config\.image_size=24"),
    (CONFIG, {"vision_feature_select_strategy": "x"}, r"vision_feature_select_strategy=x must be default or full"),
    (CONFIG, {"vision_config": {"model_type": []}}, r"vision_config\.model_type=\[\] is not implemented"),
    (CONFIG, {"vision_feature_layer": -5}, r"vision_feature_layer=-5 .* from -4 to 3, .*num_hidden_layers=3"),
    (CONFIG, {"vision_feature_layer": 4}, r"vision_feature_layer=4 must be a whole number from -4 to 3"),
    (CONFIG, {"vision_feature_layer": [-2, 99]}, r"vision_feature_layer\[1\]=99 must be a whole number"),
    (CONFIG, {"vision_feature_layer": [True]}, r"vision_feature_layer\[0\]=True must be a whole number"),
    (CONFIG, {"vision_feature_layer": []}, r"vision_feature_layer=\[\] must name a layer"),
    (CONFIG, {"image_token_index": 4000}, r"the image token 4000 must be below vocab_size"),
    (PROCESSOR, {"image_processor_type": "X"}, r"image_processor_type=X is not implemented, only CLIP"),
    (PROCESSOR, {"do_pad": True}, r"image_processor\.do_pad=True is not implemented"),
    (PROCESSOR, {"size": {"shortest_edge": 8}}, r"size=.* must be crop_size=16 or more"),
    (PROCESSOR, {"crop_size": {"height": 16, "width": 8}}, r"crop_size=.* must be a square"),
    (PROCESSOR, {"image_mean": [0.5]}, r"image_mean=\[0\.5\] must be a list of 3"),
    (PROCESSOR, {"image_mean": [0.5, True, 0.5]}, r"image_processor\.image_mean=.*True.* must be three numbers from"),
    (PROCESSOR, {"image_std": [0.5, 0, 0.5]}, r"image_processor\.image_std=.* numbers from 1e-06 to 1e\+06"),
    (PROCESSOR, {"image_std": [0.5, float("inf"), 1]}, r"image_std"),
    (PROCESSOR, {"image_mean": [float("nan"), 0, 0]}, r"image_mean"),
    (PROCESSOR, {"resample": 9}, r"image_processor\.resample=9 must be at most 5"),
    (
        PROCESSOR,
        {"size": {"shortest_edge": 20000}},
        r"image_processor\.size\.shortest_edge=20000 must be at most 10000",
    ),
    (PROCESSOR, {"rescale_factor": 1.0}, r"rescale_factor=1\.0 must be 1/255"),
]


@pytest.mark.parametrize(("file", "changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_implemented_is_refused_in_a_line(
    llava: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    content = json.loads((llava / file).read_text())
    for key, value in changes.items():
        is_section = key.endswith("_config")
        content[key] = {**content[key], **value} if is_section else value
    (llava / file).write_text(json.dumps(content))
    with pytest.raises(LabError, match=words) as refusal:
        ModelFolder(llava).load(device=CPU, dtype=torch.float32)
    assert "\n" not in str(refusal.value)


TILES = [
    ({"max_patches": 100000}, "image_processor.max_patches=100000 must be at most 256; copy the checkpoint again"),
    ({"min_patches": 5}, "image_processor.min_patches=5 must be at most max_patches=4"),
]


@pytest.mark.parametrize(("changes", "words"), TILES, ids=str)
def test_numbers_of_tiles_are_refused_under_the_processor_s_key(
    tmp_path: Path, changes: dict[str, int], words: str
) -> None:
    write_internvl(tmp_path, max_patches=4)
    content = json.loads((tmp_path / PROCESSOR).read_text())
    (tmp_path / PROCESSOR).write_text(json.dumps(content | changes))
    with pytest.raises(LabError) as refusal:
        opened(tmp_path)
    assert str(refusal.value).endswith(words)


@pytest.mark.parametrize("layer", [-3, 2, [-2]], ids=str)
def test_the_layer_of_an_internvl_is_one_that_its_tower_has(tmp_path: Path, layer: object) -> None:
    write_internvl(tmp_path)
    content = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**content, "vision_feature_layer": layer}))
    if isinstance(layer, list):
        with pytest.raises(LabError, match=r"vision_feature_layer=\[-2\] must be a whole number from -3 to 2"):
            _ = ModelFolder(tmp_path).architecture
    else:
        model = ModelFolder(tmp_path).load(device=CPU, dtype=torch.float32)
        tokens = torch.full((1, 4), model.config.vision.image_token_id)
        assert model(Inputs(tokens=tokens, pixel_values=torch.zeros(1, 3, 16, 16))).isfinite().all()


def test_an_image_token_that_the_tokenizer_lacks_is_refused(llava: Path, pictures: list[Path]) -> None:
    vocab_size = ModelFolder(llava).architecture.decoders[0].vocab_size
    content = json.loads((llava / CONFIG).read_text()) | {"image_token_index": vocab_size - 1}
    (llava / CONFIG).write_text(json.dumps(content))
    with pytest.raises(LabError) as refusal:
        opened(llava).read_turns(["what is this ?"], pictures[:1])
    assert str(refusal.value) == (
        f"the image token {vocab_size - 1} of config.json is '' in the tokenizer, which does not read that back as "
        "this token; copy config.json and the tokenizer of the model's release"
    )


def test_a_folder_without_an_image_processor_is_refused(llava: Path) -> None:
    (llava / "preprocessor_config.json").unlink()
    with pytest.raises(LabError, match=r"has neither preprocessor_config\.json nor .* copy them") as refusal:
        _ = ModelFolder(llava).architecture
    assert "\n" not in str(refusal.value)


def test_tiles_and_image_tokens_that_do_not_match_are_refused(llava: Path) -> None:
    model = ModelFolder(llava).load(device=CPU, dtype=torch.float32)
    image = model.config.vision.image_token_id
    with pytest.raises(LabError, match="no pixel_values"):
        model(Inputs(tokens=torch.tensor([[1, image, 2]])))
    with pytest.raises(LabError, match="1 image tokens but the tiles in pixel_values make 16"):
        model(Inputs(tokens=torch.tensor([[1, image, 2]]), pixel_values=torch.zeros(1, 3, 16, 16)))
