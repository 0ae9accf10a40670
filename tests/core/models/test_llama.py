"""Llama, SmolLM2 and Qwen2 give the logits of transformers, from safetensors and from GGUF."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.core.errors import CheckpointError, InputError
from lab.core.models.checkpoint import ONE_FILE, write_checkpoint
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import Inputs
from lab.core.models.families import build_random, key_map, load

CPU = torch.device("cpu")
TOLERANCE = 1e-4
TOKENS = torch.randint(0, 120, (2, 40), generator=torch.Generator().manual_seed(1))

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, one key head": ("Llama", {"num_key_value_heads": 1}),
    "llama, wide heads": ("Llama", {"head_dim": 16}),
    "smollm2": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama, linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama, dynamic": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            "max_position_embeddings": 16,
        },
    ),
    "qwen2": ("Qwen2", {}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def transformers() -> Any:
    """The independent reference."""
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def reference(request: pytest.FixtureRequest, transformers: Any, tmp_path: Path) -> tuple[Any, Path]:
    """A random model of transformers, biases and norms included, and the folder that it was saved in."""
    family, changes = request.param
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def scores(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=tokens).logits
    return logits


def test_logits(reference: tuple[Any, Path]) -> None:
    theirs, folder = reference
    ours = load(folder, device=CPU, dtype=torch.float32)
    torch.testing.assert_close(ours(Inputs(tokens=TOKENS)), scores(theirs, TOKENS), rtol=TOLERANCE, atol=TOLERANCE)


def test_weights_are_written_as_they_were_read(reference: tuple[Any, Path]) -> None:
    _, folder = reference
    ours = load(folder, device=CPU, dtype=torch.float32)
    public, stored = key_map(ours).to_public(ours.state_dict()), load_file(folder / ONE_FILE)
    assert sorted(public) == sorted(stored)
    assert all(public[name].equal(tensor) for name, tensor in stored.items())


def test_steps_equal_the_whole(reference: tuple[Any, Path]) -> None:
    _, folder = reference
    ours = load(folder, device=CPU, dtype=torch.float64)
    state = ours.allocate_state(2, max_length=40)
    logits = [ours(Inputs(tokens=part), state) for part in TOKENS.split([11, *[1] * 29], dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), ours(Inputs(tokens=TOKENS)), rtol=1e-10, atol=1e-10)


def test_a_gguf_file(transformers: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    write_gguf(gguf, tmp_path / "tiny.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ours = load(tmp_path / "tiny.gguf", device=CPU, dtype=torch.float32)
    assert len(ours.mixer_layers()) == 2
    torch.testing.assert_close(ours(Inputs(tokens=TOKENS)), scores(theirs, TOKENS), rtol=TOLERANCE, atol=TOLERANCE)


def write_gguf(gguf: Any, path: Path) -> None:
    """A llama with random weights in float32."""
    generator = torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(48)
    writer.add_feed_forward_length(80)
    writer.add_head_count(6)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(120)
    layer = {
        "attn_q": (48, 48),
        "attn_k": (16, 48),
        "attn_v": (16, 48),
        "attn_output": (48, 48),
        "ffn_gate": (80, 48),
        "ffn_up": (80, 48),
        "ffn_down": (48, 80),
        "attn_norm": (48,),
        "ffn_norm": (48,),
    }
    shapes = {"token_embd": (120, 48), "output_norm": (48,), "output": (120, 48)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (0.3 * torch.randn(shape, generator=generator)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_that_is_none_is_refused(transformers: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    pytest.importorskip("gguf", reason="gguf is not installed")
    (tmp_path / "bad.gguf").write_bytes(b"no such thing")
    with pytest.raises(CheckpointError, match=r"bad\.gguf cannot be read as GGUF: ") as refusal:
        load(tmp_path / "bad.gguf", device=CPU, dtype=torch.float32)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_separate_projections_are_packed_and_unpacked(
    tiny_decoder: Callable[..., DecoderConfig], qkv_bias: bool
) -> None:
    config = dataclasses.replace(tiny_decoder(), qkv_bias=qkv_bias)
    generator = torch.Generator().manual_seed(0)
    model = build_random(config, device=CPU, dtype=torch.float32, generator=generator, std=0.2)
    keys = key_map(model)
    public = keys.to_public(model.state_dict())
    assert public["model.layers.0.self_attn.q_proj.weight"].shape == (32, 32)
    assert public["model.layers.0.self_attn.k_proj.weight"].shape == (16, 32)
    assert ("model.layers.1.self_attn.v_proj.bias" in public) == qkv_bias
    back = keys.to_ours(public.__getitem__)
    assert all(back[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_a_tied_head_that_is_stored_all_the_same_is_ignored(
    tiny_decoder: Callable[..., DecoderConfig], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    config = tiny_decoder(tie_output=True)
    model = build_random(config, device=CPU, dtype=torch.float32, generator=generator, std=0.2)
    public = key_map(model).to_public(model.state_dict())
    settings = SIZES | {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    settings |= {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    head = public["model.embed_tokens.weight"].clone()
    write_checkpoint(tmp_path / "tied", public | {"lm_head.weight": head}, settings | {"vocab_size": 50})
    loaded = load(tmp_path / "tied", device=CPU, dtype=torch.float32)
    assert loaded(Inputs(tokens=TOKENS % 50)).equal(model(Inputs(tokens=TOKENS % 50)))


def test_images_are_refused(tiny_decoder: Callable[..., DecoderConfig]) -> None:
    generator = torch.Generator().manual_seed(0)
    model = build_random(tiny_decoder(), device=CPU, dtype=torch.float32, generator=generator, std=0.2)
    with pytest.raises(InputError, match="this one reads text only"):
        model(Inputs(tokens=torch.tensor([[1, 2]]), pixel_values=torch.zeros(1, 3, 16, 16)))
    with pytest.raises(InputError, match="hd_max_length=8 is for models with a holistic embedding"):
        model.allocate_state(1, max_length=8, hd_max_length=8)
