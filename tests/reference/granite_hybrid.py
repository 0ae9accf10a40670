"""What llama.cpp computes of a GGUF file of its architecture `granitehybrid`, token by token in float64.

Written after its graph (src/models/granite-hybrid.cpp and mamba-base.cpp): pairs of channels that turn stand side by
side, the gate comes before the norm, and a layer without heads of keys and values is Mamba-2.
"""

# Letters: T tokens, D model width, V vocabulary, H heads, P channels of a head, N state, C channels.

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[np.float64]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


class GraniteHybrid:
    """A GGUF file: its keys, its tensors as they are stored, and its logits."""

    def __init__(self, path: Path) -> None:
        gguf: Any = pytest.importorskip("gguf", reason="gguf is not installed")
        reader = gguf.GGUFReader(path)
        self.keys = {name: field.contents() for name, field in reader.fields.items()}
        assert self.keys["general.architecture"] == "granitehybrid"
        self.types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        self.tensors: dict[str, Array] = {}
        for tensor in reader.tensors:
            numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            self.tensors[tensor.name] = numbers.reshape(tuple(reversed(tensor.shape.tolist()))).astype(np.float64)

    def key(self, name: str) -> Any:
        return self.keys[f"granitehybrid.{name}"]

    def logits(self, ids: list[int]) -> Array:
        """Of every token, (T, V)."""
        table = self.tensors["token_embd.weight"]
        x = table[ids]
        assert self.key("ssm.inner_size") == 2 * x.shape[1], "llama.cpp stops otherwise"
        for layer, num_kv_heads in enumerate(self.key("attention.head_count_kv")):
            name = f"blk.{layer}"
            u = self._normed(x, f"{name}.attn_norm")
            x = x + (self._attention(u, name, num_kv_heads) if num_kv_heads else self._mamba(u, name))
            u = self._normed(x, f"{name}.ffn_norm")
            hidden = silu(u @ self._weight(f"{name}.ffn_gate").T) * (u @ self._weight(f"{name}.ffn_up").T)
            x = x + hidden @ self._weight(f"{name}.ffn_down").T
        return self._normed(x, "output_norm") @ self.tensors.get("output.weight", table).T

    def _weight(self, name: str) -> Array:
        return self.tensors[f"{name}.weight"]

    def _normed(self, x: Array, name: str) -> Array:
        square = np.mean(x**2, axis=-1, keepdims=True)
        return x / np.sqrt(square + self.key("attention.layer_norm_rms_epsilon")) * self._weight(name)

    def _turned(self, heads: Array) -> Array:
        """Heads (T, H, P), with pairs of neighbouring channels turned by the angles of each token."""
        width = self.key("rope.dimension_count")
        frequencies = self.key("rope.freq_base") ** -(np.arange(0, width, 2) / width)
        frequencies = frequencies / self.tensors.get("rope_freqs.weight", np.ones(1))
        if self.keys.get("granitehybrid.rope.scaling.type") == "linear":
            frequencies = frequencies / self.key("rope.scaling.factor")
        angles = np.arange(len(heads))[:, None, None] * frequencies
        even, odd = heads[..., 0::2], heads[..., 1::2]
        turned = np.empty_like(heads)
        turned[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
        turned[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
        return turned

    def _attention(self, u: Array, name: str, num_kv_heads: int) -> Array:
        num_heads = self.key("attention.head_count")
        q = (u @ self._weight(f"{name}.attn_q").T).reshape(len(u), num_heads, -1)
        k, v = (
            (u @ self._weight(f"{name}.attn_{part}").T)
            .reshape(len(u), num_kv_heads, -1)
            .repeat(num_heads // num_kv_heads, axis=1)
            for part in "kv"
        )
        if self.key("rope.scaling.finetuned"):
            q, k = self._turned(q), self._turned(k)
        scores = self.key("attention.scale") * np.einsum("thp,shp->hts", q, k)
        scores = np.where(np.tri(len(u), dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return np.einsum("hts,shp->thp", shares, v).reshape(len(u), -1) @ self._weight(f"{name}.attn_output").T

    def _mamba(self, u: Array, name: str) -> Array:
        inner, size = self.key("ssm.inner_size"), self.key("ssm.state_size")
        num_groups, num_heads = self.key("ssm.group_count"), self.key("ssm.time_step_rank")
        width = num_groups * size
        projected = u @ self._weight(f"{name}.ssm_in").T
        assert projected.shape[1] == 2 * inner + 2 * width + num_heads
        gate, channels, dt = np.split(projected, [inner, 2 * inner + 2 * width], axis=1)
        taps = self._weight(f"{name}.ssm_conv1d")
        assert taps.shape == (inner + 2 * width, self.key("ssm.conv_kernel"))
        before = np.concatenate([np.zeros((taps.shape[1] - 1, taps.shape[0])), channels])
        windows = np.stack([before[tap : tap + len(u)] for tap in range(taps.shape[1])], axis=-1)
        convolved = silu(np.sum(windows * taps, axis=-1) + self.tensors[f"{name}.ssm_conv1d.bias"])
        x, b, c = np.split(convolved, [inner, inner + width], axis=1)
        x = x.reshape(len(u), num_heads, -1)
        per_group = num_heads // num_groups
        b, c = (part.reshape(len(u), num_groups, size).repeat(per_group, axis=1) for part in (b, c))
        steps = np.log1p(np.exp(dt + self.tensors[f"{name}.ssm_dt.bias"]))
        decay = np.exp(steps * self.tensors[f"{name}.ssm_a"][:, 0])
        state, outputs = np.zeros((num_heads, x.shape[2], size)), []
        for t in range(len(u)):
            added = np.einsum("h,hp,hn->hpn", steps[t], x[t], b[t])
            state = decay[t][:, None, None] * state + added
            outputs.append(np.einsum("hpn,hn->hp", state, c[t]) + self.tensors[f"{name}.ssm_d"] * x[t])
        y = silu(gate) * np.stack(outputs).reshape(len(u), inner)
        y = self._normed(y.reshape(len(u), num_groups, -1), f"{name}.ssm_norm").reshape(len(u), inner)
        return y @ self._weight(f"{name}.ssm_out").T
