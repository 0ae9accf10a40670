"""Public config.json files are read for their mathematics; what is not implemented is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import ConfigError
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.models.config import PixelShuffle
from lab.core.models.hovle import config as hovle
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.llama import config as llama
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.qwen2 import SPEC, Qwen2Config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "hidden_act": "silu",
    "architectures": ["LlamaForCausalLM"],
    "transformers_version": "4.40.0",
}


def changed(content: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """A copy with `a.b` set to a value, or removed for `...`."""
    copy: dict[str, Any] = json.loads(json.dumps(content))
    *sections, last = key.split(".")
    inner = copy
    for section in sections:
        inner = inner[section]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


@pytest.fixture
def public(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "config.json").read_text())
    return content


def test_a_public_file_is_read_past_its_unrelated_keys(golden: Path, public: dict[str, Any]) -> None:
    config = hovle.read(public)
    assert config.vision.pixel_shuffle is {"hovle_pre": PixelShuffle.pre, "hovle_post": PixelShuffle.post}[golden.name]
    assert (config.vision.image_size, config.vision.patch_size, config.vision.shuffle_factor) == (16, 4, 2)
    assert config.llm.num_layers == 3
    assert config.llm.rotary == RotaryConfig(theta=10000.0, max_length=256)
    assert hovle.read(hovle.write(config)) == config


@pytest.mark.parametrize(
    "rotary",
    [
        RotaryConfig(theta=1e6, max_length=32768, kind=RotaryKind.dynamic, factor=2.0),
        RotaryConfig(theta=1e4, max_length=128, kind=RotaryKind.linear, factor=4.0),
    ],
)
def test_what_is_written_is_read_again(tiny_hovle: Callable[..., HovleConfig], rotary: RotaryConfig) -> None:
    config = tiny_hovle(PixelShuffle.post, rotary=rotary)
    assert hovle.read(json.loads(json.dumps(hovle.write(config)))) == config


def test_the_released_architecture_survives_the_way_through_json(released: HovleConfig) -> None:
    assert hovle.read(json.loads(json.dumps(hovle.write(released)))) == released


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalize_encoder_output", True, "normalize_encoder_output=True is not implemented, only False"),
        ("force_image_size", 32, "force_image_size=32 is not implemented, only 16"),
        ("downsample_ratio", 0.25, "downsample_ratio=0.25 is not implemented, only 0.5"),
        ("quantization_config", {"bits": 4}, "quantization_config={'bits': 4} is not implemented, without it"),
        ("embedding_config.use_ls", True, "embedding_config.use_ls=True"),
        ("embedding_config.attention_bias", True, "embedding_config.attention_bias=True"),
        ("embedding_config.use_pixel_shuffle_proj", False, "embedding_config.use_pixel_shuffle_proj=False"),
        ("embedding_config.special_token_maps", {"<a>": 1}, "embedding_config.special_token_maps={'<a>': 1}"),
        ("embedding_config.hidden_act", "gelu", "embedding_config.hidden_act=gelu is not implemented, only silu"),
        ("embedding_config.pixel_shuffle_loc", "mid", "embedding_config.pixel_shuffle_loc=mid must be pre or post"),
        ("embedding_config.downsample_ratio", 0.4, "downsample_ratio=0.4"),
        ("embedding_config.llm_hidden_size", 32, "embedding_config.llm_hidden_size=32 is not implemented"),
        ("embedding_config.patch_size", ..., "embedding_config.patch_size=None must be a whole number of 1 or more"),
        ("embedding_config.rope_scaling", {"type": "yarn", "factor": 2.0}, "rope_scaling.type=yarn is not implemented"),
        ("embedding_config", 3, "embedding_config=3 must be an object"),
        ("llm_config", ..., "llm_config=None must be an object"),
        ("llm_config.bias", True, "llm_config.bias=True is not implemented, only False"),
        ("llm_config.hidden_size", "64", "llm_config.hidden_size=64 must be a whole number"),
        ("llm_config.num_hidden_layers", 0, "llm_config.num_hidden_layers=0 must be a whole number of 1 or more"),
        ("llm_config.num_key_value_heads", 5, "must be a multiple of num_key_value_heads=5"),
        ("llm_config.num_attention_heads", 7, "must be a multiple of num_attention_heads=7"),
        ("llm_config.rms_norm_eps", ..., "llm_config.rms_norm_eps=None must be a number above 0"),
        ("llm_config.rope_scaling", {"type": "linear"}, "llm_config.rope_scaling.factor=None must be a number above 0"),
        ("llm_config.layers_block_type", ["mha"], "llm_config.layers_block_type="),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    public: dict[str, Any], key: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        hovle.read(changed(public, key, value))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_llama_file_is_read() -> None:
    assert llama.read(LLAMA) == LlamaConfig(
        num_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        vocab_size=100,
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=5000.0, max_length=512),
    )


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5000.0, "rope_scaling": {"type": "dynamic", "factor": 3.0}},
        {"rope_theta": 5000.0, "rope_scaling": {"rope_type": "dynamic", "type": "dynamic", "factor": 3.0}},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 3.0}},
    ],
)
def test_every_spelling_of_rotary_scaling_is_read(rope: dict[str, Any]) -> None:
    without = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    expected = RotaryConfig(theta=5000.0, max_length=512, kind=RotaryKind.dynamic, factor=3.0)
    assert llama.read(without | rope).rotary == expected


def test_what_the_first_llama_files_leave_out_has_its_old_value() -> None:
    old = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "rope_theta")}
    config = llama.read(old)
    assert (config.num_kv_heads, config.rotary.theta, config.tie_output) == (4, 10000.0, False)


def test_qwen2_has_biases_on_queries_keys_and_values() -> None:
    assert SPEC.read(LLAMA | {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}).qkv_bias


@pytest.mark.parametrize(("window", "expected"), [({}, 4096), ({"sliding_window": None}, None)])
def test_qwen2_has_its_usual_window_only_where_the_key_is_missing(
    window: dict[str, None], expected: int | None
) -> None:
    config = SPEC.read(LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1} | window)
    assert isinstance(config, Qwen2Config)
    assert config.window == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layer_types", 5, "layer_types=5 must be a list"),
        ("rope_scaling", {"rope_type": ["linear"], "factor": 2.0}, "rope_scaling.type=['linear'] is not implemented"),
        ("attention_bias", 1, "attention_bias=1 must be true or false"),
        ("hidden_act", "gelu", "hidden_act=gelu is not implemented, only silu"),
        ("use_sliding_window", True, "use_sliding_window=True is not implemented"),
        ("layer_types", ["full_attention", "sliding_attention"], "layer_types[1]=sliding_attention is not implemented"),
        (
            "rope_scaling",
            {"rope_type": "proportional"},
            "rope_scaling.type=proportional is not implemented, only default",
        ),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}, "rope_scaling.low_freq_factor=None must be a number"),
        (
            "rope_scaling",
            {"type": "longrope", "short_factor": 2},
            "rope_scaling.short_factor=2 must be a list of numbers",
        ),
        ("rope_scaling", {"type": "linear", "factor": 2.0, "beta": 3}, "rope_scaling.beta=3 is not implemented"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor=0.5 is not implemented, only 1"),
        ("max_position_embeddings", ..., "max_position_embeddings=None must be a whole number"),
        ("vocab_size", True, "vocab_size=True must be a whole number"),
        ("rms_norm_eps", -1.0, "rms_norm_eps=-1.0 must be a number above 0"),
    ],
)
def test_llama_files_that_ask_for_more_are_refused_by_name(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        llama.read(changed(LLAMA, key, value))
    assert message in str(refusal.value)
