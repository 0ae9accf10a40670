"""The names of tensors in Phi-3's checkpoints: queries, keys and values in one matrix, gate and up in another."""

import torch

from lab.core.mixers.base import Mixer
from lab.core.mixers.softmax import pack_qkv, unpack_qkv
from lab.core.mixers.tensor_rules import TensorRule, Tensors, renamed
from lab.core.models.decoder import DecoderLayer
from lab.core.models.tensor_names import KeyMap, mixer_rules, text_names
from lab.core.models.text_model import TextModel


def names(model: TextModel) -> KeyMap:
    """The rules of every tensor."""
    return text_names(model, _layer)


def _layer(layer: DecoderLayer, public: str, ours: str) -> list[TensorRule]:
    def halves(tensors: Tensors) -> Tensors:
        # cloned: each is trained separately
        return [half.clone() for half in tensors[0].chunk(2)]

    def together(tensors: Tensors) -> Tensors:
        return [torch.cat(list(tensors))]

    names = {
        "input_layernorm.weight": "mixer_norm.weight",
        "post_attention_layernorm.weight": "mlp_norm.weight",
        "mlp.down_proj.weight": "mlp.down.weight",
    }
    gate_up = (f"{ours}.mlp.gate.weight", f"{ours}.mlp.up.weight")
    return [
        *renamed(public, ours, names),
        TensorRule((f"{public}.mlp.gate_up_proj.weight",), gate_up, read=halves, write=together),
        *mixer_rules(layer.mixer, f"{public}.self_attn", f"{ours}.mixer", _attention),
    ]


def _attention(attention: Mixer, public: str, ours: str) -> list[TensorRule]:
    """All queries, then all keys, then all values, where ours are grouped by key head."""
    shape = attention.shape
    num_rows = [shape.num_heads * shape.head_dim, *2 * [shape.num_kv_heads * shape.head_dim]]

    def read(tensors: Tensors) -> Tensors:
        q, k, v = torch.split(tensors[0], num_rows)
        return [pack_qkv(q, k, v, shape)]

    def write(tensors: Tensors) -> Tensors:
        return [torch.cat(list(unpack_qkv(tensors[0], shape)))]

    packed = TensorRule((f"{public}.qkv_proj.weight",), (f"{ours}.wqkv.weight",), read=read, write=write)
    return [packed, *renamed(public, ours, {"o_proj.weight": "wo.weight"})]
