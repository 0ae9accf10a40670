"""Every option of every family of text models gives the logits of transformers, and comes back as it was written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.core.models.checkpoint import ONE_FILE
from lab.core.models.decoder import Inputs
from lab.core.models.folder import ModelFolder
from lab.core.models.spec import key_map

CPU = torch.device("cpu")
# of the largest logit, in float32
TOLERANCE = 1e-5
LENGTH = 40
TOKENS = torch.randint(0, 120, (2, LENGTH), generator=torch.Generator().manual_seed(1))
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **values}}


SHORT = {"original_max_position_embeddings": 16}
LONGROPE = rope("longrope", short_factor=[1.0, 1.2, 1.5, 2.0], long_factor=[1.0, 2.0, 3.0, 4.0])
# every sequence is longer than the original length of the scaled kinds, but where "short" says so
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, wide heads": ("llama", {"head_dim": 16}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": ("llama", rope("linear", factor=4.0)),
    "llama, dynamic": ("llama", rope("dynamic", factor=2.0) | {"max_position_embeddings": 16}),
    "llama, llama3": ("llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **SHORT)),
    "llama, yarn": ("llama", rope("yarn", factor=4.0, **SHORT)),
    "llama, yarn, every key": (
        "llama",
        rope("yarn", factor=4.0, beta_fast=4.0, beta_slow=0.5, truncate=False, attention_factor=0.8, **SHORT),
    ),
    "llama, yarn, mscale": ("llama", rope("yarn", factor=4.0, mscale=0.7, mscale_all_dim=1.1, **SHORT)),
    "llama, yarn, unextended": ("llama", rope("yarn", factor=4.0) | {"max_position_embeddings": 16}),
    "llama, longrope": ("llama", LONGROPE | SHORT),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 7}),
    "mistral, wide window": ("mistral", {"sliding_window": 39, "head_dim": 12}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn": ("qwen2", rope("yarn", factor=4.0, **SHORT)),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3, wide heads, tied": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, biases": ("qwen3", {"head_dim": 8, "attention_bias": True}),
    "qwen3, yarn": ("qwen3", rope("yarn", factor=4.0, **SHORT) | {"head_dim": 16}),
    "qwen3, windows": (
        "qwen3",
        {
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        },
    ),
    "smollm3": ("smollm3", {}),
    "smollm3, every layer turns": ("smollm3", {"no_rope_layers": [1, 1, 1, 1], "tie_word_embeddings": False}),
    "smollm3, biases": ("smollm3", {"no_rope_layers": [0, 1, 0, 1], "attention_bias": True, "mlp_bias": True}),
    "smollm3, windows": ("smollm3", {"use_sliding_window": True, "sliding_window": 6, "no_rope_layer_interval": 2}),
    "smollm3, yarn": ("smollm3", rope("yarn", factor=4.0, **SHORT)),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", {"sliding_window": 7, "tie_word_embeddings": True}),
    "phi3, partial": ("phi3", rope("default", partial_rotary_factor=0.5)),
    "phi3, longrope": ("phi3", LONGROPE | SHORT),
    "phi3, longrope, short": ("phi3", LONGROPE | {"original_max_position_embeddings": 48}),
}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def reference(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """A random model of transformers, biases and norms included, and the folder that it was saved in."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model_type, changes = request.param
    config = transformers.AutoConfig.for_model(model_type, **(SIZES | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator) + float("norm" in name))
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def scores(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=tokens).logits
    return logits


def test_logits(reference: tuple[Any, Path], record_property: Any) -> None:
    theirs, folder = reference
    ours = ModelFolder(folder).load(device=CPU, dtype=torch.float32)
    expected = scores(theirs, TOKENS)
    difference = float((ours(Inputs(tokens=TOKENS)) - expected).abs().max() / expected.abs().max())
    record_property("largest difference of logits, of the largest", difference)
    assert expected.std() > 0.1
    assert difference < TOLERANCE


def test_what_was_read_is_written_again(reference: tuple[Any, Path]) -> None:
    _, path = reference
    folder = ModelFolder(path)
    content = folder.family.config_json(folder.architecture)
    assert folder.family.read(json.loads(json.dumps(content))) == folder.architecture
    ours = folder.load(device=CPU, dtype=torch.float32)
    public, stored = key_map(ours).to_public(ours.state_dict()), load_file(path / ONE_FILE)
    assert sorted(public) == sorted(stored)
    assert all(public[name].equal(tensor) for name, tensor in stored.items())


def test_what_we_write_is_read_by_transformers(reference: tuple[Any, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs, path = reference
    folder = ModelFolder(path)
    ids = {key: SIZES[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    (path / "config.json").write_text(json.dumps(folder.family.config_json(folder.architecture) | ids))
    again = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    # a factor that is not in the file is computed from others
    torch.testing.assert_close(scores(again, TOKENS), scores(theirs, TOKENS), rtol=0, atol=TOLERANCE)


def test_steps_equal_the_whole(reference: tuple[Any, Path]) -> None:
    _, folder = reference
    ours = ModelFolder(folder).load(device=CPU, dtype=torch.float64)
    state = ours.allocate_state(2, max_length=LENGTH)
    logits = [ours(Inputs(tokens=part), state) for part in TOKENS.split([11, 1, 1, 9, *[1] * 18], dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), ours(Inputs(tokens=TOKENS)), rtol=1e-10, atol=1e-10)
