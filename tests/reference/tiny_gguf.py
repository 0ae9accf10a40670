"""A byte-level tokenizer as Hugging Face keeps it, and a small Llama with the same vocabulary as a GGUF file."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START

ADDED = (TURN_START, TURN_END, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
# a server of llama-cpp-python answers nothing to a prompt that ends where a turn does
CHAT = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }} it"
_WIDTH, _HIDDEN, _HEADS, _KV_HEADS = 32, 48, 4, 2


def write_json(folder: Path) -> None:
    """The tokenizer's tokenizer.json."""
    tokenizers: Any = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<s>", *ADDED], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["user system assistant which bag is it?"], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_gguf(
    path: Path,
    *,
    num_layers: int = 1,
    end: str = TURN_END,
    add_bos: bool | None = None,
    lacks: str = "",
    more: Callable[[Any], None] = lambda writer: None,
) -> None:
    """The vocabulary as llama.cpp keeps it, with the token `end` as the end of a text, and random weights.

    With `add_bos` None the file leaves open whether texts are opened by a token. `lacks` names a tensor to leave out;
    `more` gets the writer, for other keys and tensors.
    """
    for name in ("transformers", "accelerate"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    gguf: Any = pytest.importorskip("gguf", reason="gguf is not installed")
    with TemporaryDirectory() as folder:
        write_json(Path(folder))
        model = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<s>", *ADDED) else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index(end))
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template(CHAT)
    writer.add_context_length(256)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(num_layers)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(tokens))
    random = np.random.default_rng(0)
    narrow = _WIDTH * _KV_HEADS // _HEADS
    shapes = {
        "token_embd": (len(tokens), _WIDTH),
        "output": (len(tokens), _WIDTH),
    }
    for layer in range(num_layers):
        shapes |= {
            f"blk.{layer}.attn_q": (_WIDTH, _WIDTH),
            f"blk.{layer}.attn_k": (narrow, _WIDTH),
            f"blk.{layer}.attn_v": (narrow, _WIDTH),
            f"blk.{layer}.attn_output": (_WIDTH, _WIDTH),
            f"blk.{layer}.ffn_gate": (_HIDDEN, _WIDTH),
            f"blk.{layer}.ffn_up": (_HIDDEN, _WIDTH),
            f"blk.{layer}.ffn_down": (_WIDTH, _HIDDEN),
        }
    shapes.pop(lacks, None)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (random.normal(size=shape) / shape[1] ** 0.5).astype(np.float32))
    norms = [f"blk.{layer}.{name}_norm" for layer in range(num_layers) for name in ("attn", "ffn")]
    for name in ("output_norm", *norms):
        writer.add_tensor(f"{name}.weight", random.uniform(0.5, 1.5, _WIDTH).astype(np.float32))
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
