"""A checkpoint of a text model that knows every byte, with random weights and without a chat template."""

from pathlib import Path

import pytest
import torch

from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.checkpoint import write_checkpoint
from lab.core.models.families import build_random
from lab.core.models.llama import config as llama
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.spec import key_map

SPECIAL = ("<s>", "</s>")


def write_text_checkpoint(folder: Path, *, max_length: int = 256) -> Path:
    """Write it into a folder that does not exist; the test is skipped where tokenizers is not installed."""
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    config = LlamaConfig(
        num_layers=2,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=256 + len(SPECIAL),
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=1e4, max_length=max_length),
    )
    seed = torch.Generator().manual_seed(0)
    model = build_random(config, device=torch.device("cpu"), dtype=torch.float32, generator=seed, std=0.3)
    tensors = key_map(model).to_public(model.state_dict())
    write_checkpoint(folder, tensors, llama.write(config), write_more=_write_tokenizer)
    return folder


def _write_tokenizer(folder: Path) -> None:
    import tokenizers  # noqa: PLC0415 - an optional dependency

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([""], trainer)
    made.save(str(folder / "tokenizer.json"))
