"""Students of every family that has a stock home, small and with random weights."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from drawn import one_in
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.mixers.spec import mixer_like, mixers
from lab.core.models.config import DecoderConfig, ModelConfig, PixelShuffle, VisionConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.internvl.config import InternvlConfig
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.llava.config import LlavaConfig
from lab.core.models.qwen2 import Qwen2Config
from lab.core.models.qwen3 import Qwen3Config
from lab.core.models.spec import build
from lab.core.models.vision_language_config import VisionLanguageConfig
from vision_language_checkpoints import tiny_config

PLAIN = RotaryConfig(theta=1e4, max_length=256)
LLAMA3 = RotaryConfig(
    theta=5e5,
    max_length=256,
    kind=RotaryKind.llama3,
    factor=8.0,
    original_length=32,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
)
SIZES: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "rotary": PLAIN,
}


def hovle(pixel_shuffle: PixelShuffle = PixelShuffle.pre) -> HovleConfig:
    embedding, llm = (DecoderConfig(**SIZES | {"num_layers": number}) for number in (1, 3))
    vision = VisionConfig(
        image_size=16, patch_size=4, num_channels=3, shuffle_factor=2, pixel_shuffle=pixel_shuffle, image_token_id=4
    )
    return HovleConfig(vision=vision, embedding=embedding, llm=llm)


def pictured(kind: type[VisionLanguageConfig], text: DecoderConfig) -> VisionLanguageConfig:
    """A text model behind a vision tower of transformers."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    return tiny_config(kind, text=text, image_token_id=4)


TEACHERS: dict[str, Callable[[], ModelConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama 3.1": lambda: LlamaConfig(**SIZES | {"rotary": LLAMA3}),
    "llama, biases": lambda: LlamaConfig(**SIZES | {"qkv_bias": True, "output_bias": True, "mlp_bias": True}),
    "qwen2": lambda: Qwen2Config(**SIZES | {"rms_norm_eps": 1e-6, "tie_output": True}),
    "qwen3": lambda: Qwen3Config(**SIZES | {"rms_norm_eps": 1e-6, "head_dim": 16}),
    # nine heads on three, as SmolLM2-135M
    "smollm2": lambda: LlamaConfig(
        **SIZES | {"num_heads": 9, "num_kv_heads": 3, "hidden_size": 72, "tie_output": True}
    ),
    "hovle": hovle,
    "llava": lambda: pictured(LlavaConfig, LlamaConfig(**SIZES)),
    "internvl": lambda: pictured(InternvlConfig, Qwen2Config(**SIZES | {"rms_norm_eps": 1e-6})),
}
MIXERS: dict[str, tuple[str, dict[str, Any]]] = {
    "norm first": ("mamba2", {}),
    "gate first": ("mamba2", {"norm_before_gate": False}),
    "deltanet": ("gated_deltanet", {"conv_bias": False}),
}
# layers that stay softmax attention
KEPT = {"linear": (), "hybrid": (0, 2)}


def redraw(model: LanguageModel) -> None:
    """Random numbers in every tensor; norms near one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.12 * torch.randn(parameter.shape, generator=generator) + float("norm" in name))


def outline_of(
    teacher: str | ModelConfig, mixer: str = "gate first", kept: str = "hybrid", **options: Any
) -> LanguageModel:
    """A student on the meta device: its layers without numbers."""
    kind, changes = MIXERS[mixer]
    model = build(TEACHERS[teacher]() if isinstance(teacher, str) else teacher)
    # an exportable student leaves out what no stock recurrent layer has
    free = {"norm_eps": None, "qk_norm": False}
    for layer in model.mixer_layers():
        if layer.index not in KEPT[kept]:
            chosen = mixers()[kind].options(**{**free, **changes, **options})
            layer.layer.mixer = mixer_like(layer.layer.mixer, chosen)
    return model


def drawn_student(*parts: Any, **options: Any) -> LanguageModel:
    model = outline_of(*parts, **options).to_empty(device="cpu")
    redraw(model)
    model.choose_backends()
    return model.requires_grad_(False).eval()


@pytest.fixture
def student() -> Callable[..., LanguageModel]:
    """A factory of students: teacher, mixer, `linear` or `hybrid`, options of the mixer."""
    return drawn_student


@pytest.fixture
def outline() -> Callable[..., LanguageModel]:
    """A factory of students without numbers: what a choice of architectures looks at."""
    return outline_of


@pytest.fixture(
    params=one_in(4, list(product(TEACHERS, MIXERS, KEPT, (2, 4))), of="stock"),
    ids=lambda words: "-".join(map(str, words)),
)
def combination(request: pytest.FixtureRequest) -> tuple[str, str, str, int]:
    """A teacher, what replaces its attention, in which layers, and the taps of the convolution."""
    words: tuple[str, str, str, int] = request.param
    return words


@pytest.fixture(params=TEACHERS)
def teacher(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=MIXERS)
def mixer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KEPT)
def kept(request: pytest.FixtureRequest) -> str:
    return str(request.param)
