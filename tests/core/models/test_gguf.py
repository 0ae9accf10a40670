"""GGUF files as models."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.errors import CheckpointError
from lab.core.mixers.rotary import Rotary, RotaryConfig, RotaryKind
from lab.core.models.config import DecoderConfig
from lab.core.models.folder import ModelFolder
from lab.core.models.gguf import read_gguf_config, read_gguf_tensors, read_gguf_tokenizer
from lab.core.models.gguf_rotary import rope_scaling
from reference.tiny_gguf import write_gguf

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["blk.0.ffn_up", "blk.0.attn_q"])
def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path, name: str) -> None:
    """Transformers draws it at random."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path, lacks=name)
    with pytest.raises(CheckpointError, match=r"tiny\.gguf is not whole: missing_keys .*proj\.weight; fetch"):
        read_gguf_tensors(path)


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its configuration, its tokenizer and its weights, whose memory is given back then."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    gguf: Any = pytest.importorskip("gguf")
    parsed: list[Path] = []
    init = gguf.GGUFReader.__init__

    def counted(self: Any, file: Path, *rest: Any) -> None:
        parsed.append(file)
        init(self, file, *rest)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", counted)
    reader = gguf.GGUFReader
    read_gguf_tokenizer(path)
    content = read_gguf_config(path)
    read_gguf_tensors(path)
    assert len(parsed) == 1
    assert gguf.GGUFReader is reader
    content["hidden_size"] = 0
    assert read_gguf_config(path)["hidden_size"] == 32
    read_gguf_tokenizer(path)
    assert len(parsed) == 1
    os.utime(path, ns=(0, 0))
    read_gguf_config(path)
    assert len(parsed) == 2


PLAIN = RotaryConfig(theta=1e4, max_length=256)
LINEAR = RotaryConfig(theta=1e4, max_length=256, kind=RotaryKind.linear, factor=4.0)
YARN = RotaryConfig(
    theta=1e4, max_length=256, kind=RotaryKind.yarn, factor=2.5, original_length=64, beta_fast=8.0, beta_slow=0.5
)
YARN_OF_CONTEXT = RotaryConfig(theta=1e4, max_length=256, kind=RotaryKind.yarn, factor=2.0, original_length=256)
LLAMA3 = RotaryConfig(
    theta=1e4, max_length=256, kind=RotaryKind.llama3, factor=32.0, original_length=512, high_freq_factor=100.0
)


def scaled(**keys: str | float) -> Callable[[Any], None]:
    """Keys of the rotary embedding."""

    def add(writer: Any) -> None:
        for key, value in keys.items():
            name = f"llama.rope.{key.replace('scaling_', 'scaling.')}"
            if isinstance(value, str):
                writer.add_string(name, value)
            elif isinstance(value, int):
                writer.add_uint32(name, value)
            else:
                writer.add_float32(name, value)

    return add


def divided(rotary: RotaryConfig) -> Callable[[Any], None]:
    """The divisors of the frequencies as a tensor, as converters write Llama 3.1's."""
    divisors = Rotary(rotary, head_dim=8).divisors().numpy().astype(np.float32)
    return lambda writer: writer.add_tensor("rope_freqs.weight", divisors)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (scaled(), PLAIN),
        (scaled(scaling_type="none", scaling_factor=4.0), PLAIN),
        (scaled(scaling_type="linear", scaling_factor=1.0), PLAIN),
        (scaled(scaling_type="linear", scaling_factor=4.0), LINEAR),
        (scaled(scaling_factor=4.0), LINEAR),
        (scaled(scale_linear=4.0), LINEAR),
        (
            scaled(
                scaling_type="yarn",
                scaling_factor=2.5,
                scaling_original_context_length=64,
                scaling_yarn_beta_fast=8.0,
                scaling_yarn_beta_slow=0.5,
            ),
            YARN,
        ),
        (scaled(scaling_type="yarn", scaling_factor=2.0), YARN_OF_CONTEXT),
        (divided(PLAIN), PLAIN),
        (divided(LLAMA3), LLAMA3),
    ],
)
def test_the_scaling_of_positions_is_read(more: Callable[[Any], None], expected: RotaryConfig, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", more=more)
    architecture = ModelFolder(tmp_path / "tiny.gguf").architecture
    assert isinstance(architecture, DecoderConfig)
    assert architecture.rotary == expected


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_divisors_of_llama_3_give_its_numbers(factor: float) -> None:
    published = RotaryConfig(theta=5e5, max_length=131072, kind=RotaryKind.llama3, factor=factor, original_length=8192)
    divisors = Rotary(published, head_dim=64).divisors().numpy().astype(np.float32).astype(np.float64)
    assert rope_scaling(Path("a.gguf"), {}, divisors, theta=5e5) == {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (scaled(scaling_type="longrope"), r"rope\.scaling\.type=longrope is not implemented"),
        (scaled(scaling_type="yarn", scaling_factor=2.0, scaling_attn_factor=0.5), r"attn_factor=0\.5 is not"),
        (scaled(dimension_count=4), r"rope\.dimension_count=4 of 8 channels"),
        (
            lambda writer: writer.add_tensor("rope_freqs.weight", np.array([1, 8, 2, 8], np.float32)),
            r"rope_freqs\.weight holds divisors",
        ),
        (
            lambda writer: writer.add_tensor("rope_factors_long.weight", np.ones(4, np.float32)),
            r"rope_factors_long\.weight, which is not implemented",
        ),
    ],
)
def test_a_scaling_that_is_not_implemented_is_refused(more: Callable[[Any], None], match: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", more=more)
    with pytest.raises(CheckpointError, match=match):
        ModelFolder(tmp_path / "tiny.gguf").architecture  # noqa: B018


def test_a_tensor_that_transformers_leaves_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, more=lambda writer: writer.add_tensor("blk.0.attn_q.bias", np.ones(32, np.float32)))
    with pytest.raises(CheckpointError, match=r"tiny\.gguf holds blk\.0\.attn_q\.bias, which transformers has no"):
        read_gguf_tensors(path)


def test_answers_end_with_turns_and_messages_of_the_file_alone(tmp_path: Path) -> None:
    def add(writer: Any) -> None:
        writer.add_eot_token_id(70)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 71)

    path = tmp_path / "tiny.gguf"
    write_gguf(path, more=add)
    # of another model
    for name in ("config.json", "generation_config.json"):
        path.with_name(name).write_text('{"eos_token_id": 9}')
    folder = ModelFolder(path)
    tokenizer = folder.tokenizer()
    assert folder.stop_ids(tokenizer) == {tokenizer.eos_id, 70, 71}
