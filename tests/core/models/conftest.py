"""Golden teachers, and tiny models of every shape."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import load_file
from torch import Tensor

from lab.core.hydra_schema import to_typed
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.families import TeacherConfig, register
from lab.core.models.folder import ModelFolder
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.llama.config import LlamaConfig

GOLDEN = Path(__file__).parents[2] / "golden"
CPU = torch.device("cpu")
PLAIN = RotaryConfig(theta=10000.0, max_length=256)


@pytest.fixture(params=["hovle_pre", "hovle_post"])
def golden(request: pytest.FixtureRequest) -> Path:
    """Each folder of golden numbers in turn."""
    return GOLDEN / str(request.param)


@pytest.fixture
def teacher(golden: Path) -> LanguageModel:
    return ModelFolder(golden).load(device=CPU, dtype=torch.float64)


@pytest.fixture
def expected(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "expected.safetensors")


@pytest.fixture
def inputs(golden: Path, expected: dict[str, Tensor]) -> Inputs:
    """What the teacher was given: tokens, tiles and, for pixel shuffle `post`, the longer tokens."""
    return Inputs(
        tokens=expected["inputs.input_ids"],
        pixel_values=expected["inputs.pixel_values"],
        hd_tokens=expected["inputs.hd_input_ids"] if golden.name == "hovle_post" else None,
    )


@pytest.fixture
def tiny_decoder() -> Callable[..., DecoderConfig]:
    def made(*, num_layers: int = 2, rotary: RotaryConfig = PLAIN, tie_output: bool = False) -> DecoderConfig:
        return DecoderConfig(
            num_layers=num_layers,
            hidden_size=32,
            intermediate_size=48,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            vocab_size=50,
            rms_norm_eps=1e-5,
            rotary=rotary,
            tie_output=tie_output,
        )

    return made


@pytest.fixture
def tiny_llama(tiny_decoder: Callable[..., DecoderConfig]) -> Callable[..., LlamaConfig]:
    def made(**sizes: Any) -> LlamaConfig:
        decoder = tiny_decoder(**sizes)
        return LlamaConfig(**{field.name: getattr(decoder, field.name) for field in fields(decoder)})

    return made


@pytest.fixture
def tiny_hovle(tiny_decoder: Callable[..., DecoderConfig]) -> Callable[..., HovleConfig]:
    def made(pixel_shuffle: PixelShuffle = PixelShuffle.pre, *, rotary: RotaryConfig = PLAIN) -> HovleConfig:
        return HovleConfig(
            vision=VisionConfig(
                image_size=16,
                patch_size=4,
                num_channels=3,
                shuffle_factor=2,
                pixel_shuffle=pixel_shuffle,
                image_token_id=49,
            ),
            embedding=tiny_decoder(num_layers=1, rotary=rotary),
            llm=tiny_decoder(num_layers=2, rotary=rotary),
        )

    return made


@pytest.fixture
def released() -> HovleConfig:
    """The architecture of HoVLE-2.6B, as shipped."""
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = to_typed(compose("teacher/hovle_2p6b").teacher, TeacherConfig)
    assert config.hovle is not None
    return config.hovle
