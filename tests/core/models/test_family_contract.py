"""What every family of models keeps to; a folder in core/models is tested by being there."""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from drawn import one_in
from lab.core.errors import ConfigError
from lab.core.mixers.rotary import RotaryConfig
from lab.core.mixers.spec import mixer_like, mixers
from lab.core.models.checkpoint import CONFIG, write_checkpoint
from lab.core.models.config import DecoderConfig, ModelConfig, PixelShuffle, VisionConfig
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import Kind, ModelFolder
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.spec import FamilySpec, build, families, family_of, key_map
from lab.core.models.steps import Steps
from lab.core.models.student_format import write_student
from lab.core.models.vision_language_config import VisionLanguageConfig
from lab.core.runs.sums import SUMS
from vision_language_checkpoints import tiny_config

CPU = torch.device("cpu")
STUDENTS = [(kind, name) for kind in mixers() for name in ("linear", "hybrid")]
TEACHERS = Path(__file__).parents[3] / "conf" / "teacher"
LENGTH = 20
TOKENS = torch.randint(0, 48, (2, LENGTH), generator=torch.Generator().manual_seed(1))
SIZES: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
    "rms_norm_eps": 1e-5,
}

pytestmark = pytest.mark.filterwarnings("ignore")


def tiny(kind: type[Any]) -> Any:
    """A small architecture, or a part of one, with the defaults of its family."""
    if issubclass(kind, VisionLanguageConfig):
        pytest.importorskip("transformers", reason="transformers is not installed")
        return tiny_config(kind, text=tiny(LlamaConfig), image_token_id=49)
    if issubclass(kind, DecoderConfig):
        return kind(**SIZES, rotary=RotaryConfig(theta=1e4, max_length=64))
    if issubclass(kind, VisionConfig):
        sizes = {"image_size": 16, "patch_size": 4, "num_channels": 3, "shuffle_factor": 2, "image_token_id": 49}
        return kind(**sizes, pixel_shuffle=PixelShuffle.pre)
    return kind(**{name: tiny(part) for name, part in get_type_hints(kind).items()})


def redraw(model: nn.Module, seed: int = 0) -> None:
    """Random numbers in every tensor; norms near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator) + float("norm" in name))


def drawn(config: ModelConfig, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    model = build(config, dtype=dtype).to_empty(device=CPU)
    redraw(model)
    return model.requires_grad_(False).eval()


def logits(model: LanguageModel) -> Tensor:
    return model(Inputs(tokens=TOKENS))


def write(model: LanguageModel, folder: Path) -> None:
    content = family_of(model.config).config_json(model.config)
    write_checkpoint(folder, key_map(model).to_public(model.state_dict()), content)
    # as a public checkpoint
    (folder / SUMS).unlink()


def assert_steps_equal_the_whole(model: LanguageModel) -> None:
    """Single tokens, compiled where the family and its mixers have it, are as near to the exact scores as the whole."""
    steps = Steps(model, model.allocate_state(2, max_length=LENGTH))
    parts = TOKENS.split([7, *[1] * (LENGTH - 7)], dim=1)
    found = torch.stack([steps.logits(Inputs(tokens=part)).clone() for part in parts], dim=1)
    exact = logits(copy.deepcopy(model).double())[:, 6:]
    rounding = float((logits(model)[:, 6:] - exact).abs().max())
    assert float((found - exact).abs().max()) < 5 * rounding + 1e-6 * float(exact.abs().max())


@pytest.fixture(params=families().values(), ids=families())
def family(request: pytest.FixtureRequest) -> FamilySpec:
    spec: FamilySpec = request.param
    return spec


@pytest.fixture(params=one_in(2, STUDENTS, of="students of families"), ids=lambda p: " ".join(p))
def student(request: pytest.FixtureRequest, family: FamilySpec) -> LanguageModel:
    """A student of the family, linear or with softmax attention in its second layer, with random weights."""
    kind, name = request.param
    model = drawn(tiny(family.config))
    for layer in model.mixer_layers():
        if name == "hybrid" and layer.index == 1:
            continue
        options, traits = mixers()[kind].options(), layer.layer.mixer.traits
        dropped = traits.names() - mixers()[kind].takes
        if dropped:
            with pytest.raises(ConfigError) as refusal:
                mixer_like(layer.layer.mixer, options, where=layer.name)
            assert any(traits.words(trait) in str(refusal.value) for trait in dropped)
            pytest.skip(str(refusal.value))
        layer.layer.mixer = mixer_like(layer.layer.mixer, options, where=layer.name).to_empty(device=CPU)
    redraw(model, seed=1)
    model.choose_backends()
    return model.requires_grad_(False).eval()


def test_a_family_is_chosen_by_its_model_types_and_its_architecture(family: FamilySpec) -> None:
    others = [other for other in families().values() if other is not family]
    assert not any(set(family.model_types) & set(other.model_types) for other in others)
    assert family.config not in [other.config for other in others]
    config = tiny(family.config)
    assert family_of(config) is family
    assert len(family.sections) == len(config.decoders)
    assert (config.vision is None) == (type(config).__dataclass_fields__.get("vision") is None)


def test_a_family_can_be_chosen_in_a_configuration(family: FamilySpec) -> None:
    assert list(TEACHERS.glob(f"{family.name}*.yaml")), f"conf/teacher/{family.name}.yaml is missing"


def test_an_architecture_is_read_as_it_was_written(family: FamilySpec) -> None:
    config = tiny(family.config)
    content = json.loads(json.dumps(family.config_json(config)))
    assert content["model_type"] in family.model_types
    assert family.read(content) == config


def test_weights_are_read_as_they_were_written(family: FamilySpec, tmp_path: Path) -> None:
    model = drawn(tiny(family.config))
    write(model, tmp_path / "model")
    folder = ModelFolder(tmp_path / "model")
    assert (folder.kind, folder.family, folder.mixers) == (Kind.teacher, family, None)
    again = folder.load(device=CPU, dtype=torch.float32)
    assert again.config == model.config
    assert all(again.state_dict()[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert logits(again).equal(logits(model))


def test_logits_are_those_of_transformers(family: FamilySpec, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = drawn(tiny(family.config))
    write(model, tmp_path / "model")
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    path = tmp_path / "model" / CONFIG
    content = json.loads(path.read_text())
    if content["model_type"] not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers has no {content['model_type']}")
    path.write_text(json.dumps(content | ids))
    words = model.config.vision is None
    kind = transformers.AutoModelForCausalLM if words else transformers.AutoModelForImageTextToText
    theirs = kind.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    assert logits(model).std() > 0.1
    torch.testing.assert_close(logits(model), theirs(input_ids=TOKENS).logits, rtol=0, atol=1e-5)


def test_steps_equal_the_whole(family: FamilySpec) -> None:
    model = drawn(tiny(family.config), dtype=torch.float64)
    state = model.allocate_state(2, max_length=LENGTH)
    steps = [model(Inputs(tokens=part), state) for part in TOKENS.split([7, *[1] * (LENGTH - 7)], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), logits(model), rtol=1e-10, atol=1e-10)


def test_compiled_steps_equal_the_whole(family: FamilySpec) -> None:
    assert_steps_equal_the_whole(drawn(tiny(family.config)))


def test_layers_are_observed_in_their_order(family: FamilySpec) -> None:
    model = drawn(tiny(family.config))
    seen: list[int] = []

    def observe(index: int, u: Tensor, head_outputs: Tensor) -> bool:
        seen.append(index)
        assert head_outputs.shape == (2, SIZES["num_heads"], LENGTH, SIZES["head_dim"])
        mixer = model.mixer_layers()[index].layer.mixer
        torch.testing.assert_close(mixer.head_outputs(u), head_outputs)
        return True

    hidden = model.observed(Inputs(tokens=TOKENS), observe)
    assert hidden is not None
    torch.testing.assert_close(model.logits(hidden), logits(model))
    assert seen == list(range(len(model.mixer_layers())))


def test_a_value_has_a_key_in_the_files_or_is_refused(family: FamilySpec) -> None:
    changes = {"output_bias": True, "mlp_bias": True, "qk_norm": True, "window": 3, "layers_without_rotary": [1]}
    messages = []
    for key, value in changes.items():
        config = tiny(family.config)
        setattr(config.decoders[-1], key, value)
        try:
            content = family.config_json(config)
        except ConfigError as refusal:
            messages.append(str(refusal))
        else:
            assert family.read(json.loads(json.dumps(content))) == config
    assert messages, "no family has all of these"
    sentence = re.compile(rf"{family.name}\.[\w.]+=\S+ has no place in a config\.json of")
    assert all(sentence.match(message) for message in messages)


def test_a_student_is_read_as_it_was_written(student: LanguageModel, tmp_path: Path) -> None:
    write_student(tmp_path / "out", student, teacher=None)
    folder = ModelFolder(tmp_path / "out")
    assert (folder.kind, folder.family, folder.architecture) == (
        Kind.student,
        family_of(student.config),
        student.config,
    )
    kinds = [layer.layer.mixer.kind for layer in student.mixer_layers()]
    assert folder.mixers == ["mha" if kind == "softmax" else kind for kind in kinds]
    again = folder.load(device=CPU, dtype=torch.float32)
    assert all(again.state_dict()[name].equal(tensor) for name, tensor in student.state_dict().items())
    assert logits(again).equal(logits(student))


def test_a_student_takes_over_its_teacher_s_config(student: LanguageModel, family: FamilySpec, tmp_path: Path) -> None:
    write(drawn(student.config), tmp_path / "teacher")
    path = tmp_path / "teacher" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7, "use_cache": True}))
    write_student(tmp_path / "out", student, teacher=ModelFolder(tmp_path / "teacher"))
    content: Mapping[str, Any] = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (content["eos_token_id"], content["use_cache"]) == (7, True)
    assert content["model_type"] not in family.model_types
    assert logits(ModelFolder(tmp_path / "out").load(device=CPU, dtype=torch.float32)).equal(logits(student))


def test_transformers_refuses_a_student_s_folder(student: LanguageModel, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    write_student(tmp_path / "out", student, teacher=None)
    with pytest.raises((ValueError, KeyError, OSError)):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_steps_of_a_student_equal_the_whole(student: LanguageModel) -> None:
    wide = copy.deepcopy(student).double()
    state = wide.allocate_state(2, max_length=LENGTH)
    steps = [wide(Inputs(tokens=part), state) for part in TOKENS.split([7, *[1] * (LENGTH - 7)], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), logits(wide), rtol=1e-9, atol=1e-9)


def test_compiled_steps_of_a_student_equal_the_whole(student: LanguageModel) -> None:
    assert_steps_equal_the_whole(student)
