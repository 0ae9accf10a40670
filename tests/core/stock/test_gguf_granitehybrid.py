"""A GGUF file of a student computes what the student does, by llama.cpp's formulas; what it cannot hold is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.smollm3 import SmolLm3Config
from lab.core.stock import gguf_file
from lab.core.stock.gguf_file import GgufPrecision, keys_in, write_gguf
from lab.core.stock.gguf_granitehybrid import ARCHITECTURE, keys_of, stack_for_llama, tensors_of
from reference.granite_hybrid import GraniteHybrid

pytest.importorskip("gguf", reason="gguf is not installed")
Student = Callable[..., LanguageModel]
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35]
# rows of whole blocks
WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32}
SIZES: dict[str, Any] = {"num_layers": 3, "vocab_size": 40, "rms_norm_eps": 1e-5, **WIDE}
PLAIN = RotaryConfig(theta=1e4, max_length=256)
LINEAR = RotaryConfig(theta=1e4, max_length=256, kind=RotaryKind.linear, factor=4.0)


def write(
    model: LanguageModel, path: Path, precision: GgufPrecision = GgufPrecision.F32, **more: Any
) -> Mapping[str, GgufPrecision]:
    stack, state = stack_for_llama(model), model.state_dict()
    return write_gguf(path, ARCHITECTURE, {**keys_of(stack), **more}, lambda: tensors_of(stack, state), precision)


def difference(model: LanguageModel, path: Path) -> float:
    """Largest difference of logits over the largest one, both in float64."""
    found = GraniteHybrid(path).logits(IDS)
    expected = model.double()(Inputs(tokens=torch.tensor([IDS])))[0].numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", ["llama", "llama 3.1", "smollm2"])
@pytest.mark.parametrize("kernel", [2, 4])
def test_a_file_computes_what_the_student_does(student: Student, tmp_path: Path, name: str, kernel: int) -> None:
    model = student(name, conv_kernel=kernel)
    write(model, tmp_path / "a.gguf")
    # keys and decay rates are in float32
    assert difference(model, tmp_path / "a.gguf") < 1e-6


@pytest.mark.parametrize(
    "options",
    [{"skip": True}, {"conv_bias": False}, {"timescales": 2}, {"timescales": 2, "skip": True, "conv_bias": False}],
)
def test_options_that_it_has(student: Student, tmp_path: Path, options: dict[str, Any]) -> None:
    model = student(LlamaConfig(**SIZES, rotary=LINEAR), **options)
    write(model, tmp_path / "a.gguf")
    assert difference(model, tmp_path / "a.gguf") < 1e-6


def test_attention_without_positions(student: Student, tmp_path: Path) -> None:
    model = student(SmolLm3Config(**SIZES, rotary=PLAIN, layers_without_rotary=[0, 2]))
    write(model, tmp_path / "a.gguf")
    assert GraniteHybrid(tmp_path / "a.gguf").key("rope.scaling.finetuned") is False
    assert difference(model, tmp_path / "a.gguf") < 1e-6


def test_a_precision_is_that_of_matrices(student: Student, tmp_path: Path) -> None:
    model = student(LlamaConfig(**SIZES, rotary=PLAIN))
    errors = {}
    for precision in GgufPrecision:
        path = tmp_path / f"{precision.value}.gguf"
        stored = write(model, path, precision)
        held = GraniteHybrid(path)
        assert held.types == {name: kind.value for name, kind in stored.items()}
        assert set(held.types.values()) == {"F32", precision.value}
        for name in ("ssm_a", "ssm_d", "ssm_norm.weight", "ssm_conv1d.weight", "ssm_dt.bias", "attn_norm.weight"):
            assert held.types[f"blk.1.{name}"] == "F32"
        errors[precision] = difference(model, path)
    assert errors[GgufPrecision.F32] < 1e-6 < errors[GgufPrecision.F16] < 1e-2
    assert errors[GgufPrecision.F16] < errors[GgufPrecision.Q8_0] < 0.1


def test_rows_that_are_no_blocks_stay_f16(student: Student, tmp_path: Path) -> None:
    model = student("llama")
    stored = write(model, tmp_path / "a.gguf", GgufPrecision.Q8_0)
    # 48 columns, and 32
    assert stored["blk.0.ffn_down.weight"] is GgufPrecision.F16
    assert stored["blk.0.ffn_up.weight"] is GgufPrecision.Q8_0


def test_values_stand_twice_and_are_read_once(student: Student, tmp_path: Path) -> None:
    model = student(LlamaConfig(**SIZES, rotary=PLAIN))
    write(model, tmp_path / "a.gguf")
    held = GraniteHybrid(tmp_path / "a.gguf").tensors
    inner = held["blk.1.ssm_in.weight"][: 2 * 2 * 64].reshape(2, 2, 2, 32, 64)
    assert np.array_equal(inner[:, :, 0], inner[:, :, 1])
    out = held["blk.1.ssm_out.weight"].reshape(64, 2, 2, 32)
    assert not out[:, :, 1].any()
    assert out[:, :, 0].all()


def test_two_timescales_are_stored_without_zeros(student: Student, tmp_path: Path) -> None:
    model = student(LlamaConfig(**SIZES, rotary=PLAIN), timescales=2)
    write(model, tmp_path / "a.gguf")
    held = GraniteHybrid(tmp_path / "a.gguf")
    assert held.key("ssm.time_step_rank") == 4
    assert held.tensors["blk.1.ssm_in.weight"].shape == (6 * 64 + 4, 64)
    out = held.tensors["blk.1.ssm_out.weight"].reshape(64, 2, 2, 32)
    assert out.all()
    assert np.array_equal(out[:, :, 0], out[:, :, 1])
    values = held.tensors["blk.1.ssm_in.weight"][2 * 64 : 4 * 64].reshape(2, 2, 32, 64)
    assert np.array_equal(values[:, 0], values[:, 1])


def test_numbers_that_a_precision_does_not_hold_leave_nothing(student: Student, tmp_path: Path) -> None:
    model = student("llama")
    with torch.no_grad():
        model.state_dict()["llm.layers.0.mlp.up.weight"][3, 4] = 1e6
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_up\.weight as F16 is off by .*; --precision F32 would do"):
        write(model, tmp_path / "a.gguf", GgufPrecision.F16)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_from_the_student_is_not_put_in_its_place(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = student("llama")
    monkeypatch.setattr(gguf_file, "_packed", lambda gguf, name, tensor, precision: tensor.numpy() + np.float32(1e-6))
    with pytest.raises(CheckpointError, match=r"token_embd\.weight as F32 is off by"):
        write(model, tmp_path / "a.gguf")
    monkeypatch.undo()
    monkeypatch.setattr(gguf_file, "_add", lambda writer, name, value: writer.add_uint32(name, 7))
    with pytest.raises(CheckpointError, match=r"its key granitehybrid\.context_length reads 7 instead of 256"):
        write(model, tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


def test_keys_come_back(student: Student, tmp_path: Path) -> None:
    more = {"own.text": "ünï", "own.words": ["a", "b c"], "own.flags": True, "own.real": 0.1, "own.ids": [1, 2]}
    more |= {"own.unset": -1, "own.long": 2**33}
    write(student("llama"), tmp_path / "a.gguf", **more)
    found = keys_in(tmp_path / "a.gguf", "own.")
    assert found.pop("own.real") == pytest.approx(0.1)
    del more["own.real"]
    assert found == more


@pytest.mark.parametrize(
    ("parts", "options", "words"),
    [
        (("llama", "norm first"), {}, "student.mixer.norm_before_gate=true"),
        (("llama", "gate first", "linear"), {}, "student.hybrid keeps no attention"),
        (("llama", "deltanet"), {}, "student.mixer.kind=gated_deltanet"),
        (("llama, biases",), {}, "qkv_bias=true: projections of its Mamba-2 layers have no biases"),
        (("qwen2",), {}, "qkv_bias=true"),
        (("qwen3",), {}, "qk_norm=true"),
        (("hovle",), {}, "vision.image_size=16: it reads no images"),
        (("llama",), {"norm_eps": 1e-3}, "student.mixer.norm_eps=0.001"),
        (("llama",), {"rotary": True}, "student.mixer.rotary=true"),
    ],
)
def test_what_it_does_not_hold_is_refused_in_a_line(
    outline: Student, parts: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        stack_for_llama(outline(*parts, **options))
    message = str(caught.value)
    assert message.startswith("granitehybrid of llama.cpp does not hold this student: ")
    assert words in message
    assert "would do" in message
    assert "\n" not in message


def test_angles_that_it_does_not_know_are_refused(outline: Student) -> None:
    yarn = RotaryConfig(theta=1e4, max_length=256, kind=RotaryKind.yarn, factor=4.0, original_length=64)
    with pytest.raises(ConfigError, match=r"rotary\.kind=yarn"):
        stack_for_llama(outline(LlamaConfig(**SIZES, rotary=yarn)))
