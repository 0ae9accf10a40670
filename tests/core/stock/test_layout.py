"""Which stock architecture holds a student, where its tensors are there, and that they come back bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stock_homes import home
from torch import Tensor

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.rotary import RotaryConfig
from lab.core.mixers.spec import mixer_like, mixers
from lab.core.models.checkpoint import CONFIG, ONE_FILE, write_checkpoint
from lab.core.models.config import PixelShuffle
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import Kind, ModelFolder
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.spec import build
from lab.core.runs.sums import SUMS
from lab.core.runs.tensor_files import write_tensors
from lab.core.stock.layout import EXACT, choose

Student = Callable[..., LanguageModel]
CPU = torch.device("cpu")
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
# of a HoVLE: tensors that nothing reads come back as zeros
UNREAD = {"embedding.vision.class_embedding", "llm.tokens.weight"}


def write(model: LanguageModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    layout = choose(model)
    rounded = layout.rounded(model.state_dict())

    def write_more(partial: Path) -> None:
        if rounded:
            write_tensors(partial / EXACT, rounded)

    tensors = {name: tensor.to(dtype) for name, tensor in layout.keys().to_public(model.state_dict()).items()}
    write_checkpoint(folder, tensors, layout.config(dtype, IDS), write_more=write_more)


def changed_weights(folder: Path, name: str, change: Callable[[Tensor], None]) -> None:
    tensors = load_file(folder / ONE_FILE)
    change(tensors[name])
    save_file(tensors, folder / ONE_FILE)
    (folder / SUMS).unlink()


def test_a_student_has_the_home_that_fits(outline: Student) -> None:
    teachers = ("llama", "llama 3.1", "llama, biases", "qwen2", "qwen3", "smollm2", "hovle")
    mixers_and_layers = product(("norm first", "gate first", "deltanet"), ("linear", "hybrid"))
    for teacher, (mixer, kept) in product(teachers, list(mixers_and_layers)):
        expected = home(teacher, mixer, kept)
        if expected is not None:
            assert choose(outline(teacher, mixer, kept)).architecture.model_type == expected
            continue
        with pytest.raises(ConfigError, match="no stock architecture holds this student") as refusal:
            choose(outline(teacher, mixer, kept))
        assert "would do" in str(refusal.value)
        assert "=" in str(refusal.value) or "student.hybrid" in str(refusal.value)


@pytest.mark.parametrize(
    ("teacher", "mixer", "kept", "options"),
    [
        ("smollm2", "norm first", "hybrid", {}),
        ("qwen2", "gate first", "hybrid", {}),
        ("llama, biases", "gate first", "linear", {}),
        ("llama, biases", "norm first", "hybrid", {}),
        ("qwen3", "deltanet", "hybrid", {}),
        ("hovle", "gate first", "hybrid", {}),
        ("smollm2", "gate first", "hybrid", {"timescales": 2, "skip": True}),
        ("llama, biases", "norm first", "hybrid", {"timescales": 2}),
    ],
)
def test_a_folder_gives_the_student_back_bit_for_bit(
    student: Student, tmp_path: Path, teacher: str, mixer: str, kept: str, options: dict[str, Any]
) -> None:
    model = student(teacher, mixer, kept, conv_kernel=4, **options)
    write(model, tmp_path / "student")
    folder = ModelFolder(tmp_path / "student")
    assert folder.kind is Kind.student
    assert folder.architecture == model.config
    again, expected = folder.load(device=CPU, dtype=torch.float32), model.state_dict()
    found = again.state_dict()
    different = {name for name, tensor in expected.items() if not found[name].equal(tensor)}
    assert different - UNREAD <= {"embedding.vision.position_embedding"}
    if different:
        place = "embedding.vision.position_embedding"
        assert found[place][0, 1:].equal(expected[place][0, 1:]), "all but the class token's"
    assert [layer.layer.mixer.options for layer in again.converted_layers()] == [
        layer.layer.mixer.options for layer in model.converted_layers()
    ]


def test_norms_that_a_difference_from_one_rounds_are_kept_beside(student: Student, tmp_path: Path) -> None:
    model = student("qwen3", "deltanet", "hybrid")
    name = "llm.layers.0.mixer_norm.weight"
    with torch.no_grad():
        model.state_dict()[name].fill_(0.1)
    write(model, tmp_path / "student")
    stored = load_file(tmp_path / "student" / ONE_FILE)["model.layers.0.input_layernorm.weight"]
    assert not (stored + 1).equal(model.state_dict()[name])
    again = ModelFolder(tmp_path / "student").load(device=CPU, dtype=torch.float32)
    assert again.state_dict()[name].equal(model.state_dict()[name])


def test_the_numbers_of_a_layer_are_repeated_for_the_heads_that_share_them(student: Student) -> None:
    model = student("llama", "gate first", "hybrid", skip=True)
    public = choose(model).keys().to_public(model.state_dict())
    mixer = model.mixer_layers()[1].layer.mixer
    values = mixer.state_dict()["vkq_proj.weight"][:16].reshape(2, 8, 32)
    projection = public["model.layers.1.mamba.in_proj.weight"]
    assert projection.shape == (4 * 32 + 4, 32)
    assert projection[32:64].equal(values[[0, 0, 1, 1]].flatten(0, 1))
    assert public["model.layers.1.mamba.D"].equal(mixer.state_dict()["D"])
    assert public["model.layers.1.mamba.norm.weight"].equal(mixer.state_dict()["g_norm.weight"].repeat(4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rotary": True}, "student.mixer.rotary=true"),
        ({"conv_kernel": None}, "student.mixer.conv_kernel=null"),
        ({"conv_kernel": 5}, "student.mixer.conv_kernel=5"),
        ({"gate_at_one": True}, "student.mixer.gate_at_one=true"),
        ({"norm_eps": 1e-3}, "student.mixer.norm_eps=0.001 is not the teacher's rms_norm_eps=1e-05"),
    ],
)
def test_an_option_without_a_home_is_named(outline: Student, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        choose(outline("llama", "gate first", "hybrid", **options))
    assert words in str(refusal.value)
    assert "would do" in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 8}, "window=8"),
        ({"layers_without_rotary": [0]}, "the rotary embeddings of kept layers differ"),
        ({"rotary": RotaryConfig(theta=1e4, max_length=256, fraction=0.5)}, "rotary.fraction=0.5"),
        ({"qk_norm": True}, "qk_norm=true"),
    ],
)
def test_attention_without_a_home_is_named(outline: Student, changes: dict[str, Any], words: str) -> None:
    plain = outline("llama").config
    assert isinstance(plain, LlamaConfig)
    with pytest.raises(ConfigError) as refusal:
        choose(outline(replace(plain, **changes)))
    assert words in str(refusal.value)
    # without attention, what attention has does not matter
    assert choose(outline(replace(plain, **changes), kept="linear")).architecture.model_type == "falcon_h1"


def test_two_sequences_or_layers_of_another_kind_have_no_home(outline: Student) -> None:
    config = replace(
        outline("hovle").config, vision=replace(outline("hovle").config.vision, pixel_shuffle=PixelShuffle.post)
    )
    with pytest.raises(ConfigError, match=r"vision\.pixel_shuffle=post.*pixel shuffle pre would do"):
        choose(outline(config))
    # one reason for two architectures is said once
    words = r"\(granitemoehybrid, falcon_h1: student\.hybrid keeps attention in every layer.*would do"
    with pytest.raises(ConfigError, match=words):
        choose(build(outline("llama").config))
    two = outline("llama")
    last = two.mixer_layers()[3].layer
    last.mixer = mixer_like(last.mixer, mixers()["mamba2"].options(norm_eps=None))
    with pytest.raises(ConfigError, match="but a folder describes one mixer"):
        choose(two).config(torch.float32, IDS)


def test_a_folder_that_was_trained_further_elsewhere_is_refused(student: Student, tmp_path: Path) -> None:
    write(student("llama"), tmp_path / "student")
    name = "model.layers.1.mamba.in_proj.weight"
    changed_weights(tmp_path / "student", name, lambda tensor: tensor[33].add_(1))
    with pytest.raises(CheckpointError, match=f"{name} was changed"):
        ModelFolder(tmp_path / "student").load(device=CPU, dtype=torch.float32)


def test_a_key_that_contradicts_the_student_is_refused(student: Student, tmp_path: Path) -> None:
    write(student("llama"), tmp_path / "student")
    path = tmp_path / "student" / CONFIG
    content = json.loads(path.read_text())
    (tmp_path / "student" / SUMS).unlink()
    # what transformers writes when it saves a folder again
    renamed = ["full_attention" if kind == "attention" else "linear_attention" for kind in content["layer_types"]]
    path.write_text(json.dumps({**content, "layer_types": renamed}))
    ModelFolder(tmp_path / "student").load(device=CPU, dtype=torch.float32)
    path.write_text(json.dumps({**content, "rms_norm_eps": 1e-3}))
    with pytest.raises(CheckpointError, match=r"rms_norm_eps=0\.001 but the student under its key lab makes it 1e-05"):
        ModelFolder(tmp_path / "student").load(device=CPU, dtype=torch.float32)
    path.write_text(json.dumps({**content, "model_type": "bamba"}))
    with pytest.raises(ConfigError, match="model_type=bamba is not implemented for stock students"):
        ModelFolder(tmp_path / "student").load(device=CPU, dtype=torch.float32)
