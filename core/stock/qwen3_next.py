"""qwen3_next without experts: Gated DeltaNet, or Qwen3's attention with a gate, in each layer.

The attention's gate is sigmoid(0) = 1/2 for every channel, and its output projection is doubled. Norms in front of
layers, of queries and of keys multiply by 1 + weight.
"""

from collections.abc import Iterator
from typing import Any

import torch

from lab.core.mixers.base import MixerShape
from lab.core.mixers.softmax import pack_qkv, unpack_qkv
from lab.core.mixers.stock_block import Biases, BlockKind
from lab.core.mixers.tensor_rules import TensorRule, Tensors, derived
from lab.core.models.decoder import MixerLayer
from lab.core.models.tensor_names import separate_mlp
from lab.core.stock.architecture import StockArchitecture
from lab.core.stock.stack import Stack, block_of, rope_json


def _obstacles(stack: Stack) -> Iterator[str]:
    """See `StockArchitecture.obstacles`."""
    yield from stack.obstacles(BlockKind.gated_delta_net)
    config = stack.config
    if not stack.softmax:
        yield "student.hybrid keeps no attention, without which its cache cannot decode; student=hybrid would do"
    if any(traits.qk_norm_eps is None for traits in stack.softmax):
        yield "qk_norm=false: its attention norms queries and keys; a Qwen3 teacher would do"
    if any(traits.rotary is None for traits in stack.softmax):
        yield "layers_without_rotary: its attention has a rotary embedding; student.hybrid.layers with one would do"
    if config.qkv_bias or config.output_bias:
        yield "attention_bias=true: its recurrent layers have no biases; a teacher without would do"
    if config.mlp_bias:
        yield "mlp_bias=true: its MLP has no biases; a teacher without would do"


def _config(stack: Stack) -> dict[str, Any]:
    """See `StockArchitecture.config`."""
    config, mixer = stack.config, stack.converted[0]
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        **rope_json(stack.rotary, partial_rotary_factor=stack.rotary.fraction),
        "partial_rotary_factor": stack.rotary.fraction,
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": False,
        "linear_conv_kernel_dim": mixer.options.conv_kernel,
        "linear_key_head_dim": config.head_dim,
        "linear_value_head_dim": config.head_dim,
        "linear_num_key_heads": config.num_heads,
        "linear_num_value_heads": config.num_heads,
        "num_experts": 0,
        "num_experts_per_tok": 0,
        "layer_types": [
            "full_attention" if layer.layer.mixer.is_attention else "linear_attention" for layer in stack.layers
        ],
    }


def _rules(stack: Stack, prefix: str) -> list[TensorRule]:
    """See `StockArchitecture.rules`."""

    def of_layer(layer: MixerLayer, public: str) -> list[TensorRule]:
        ours, mixer = layer.name, layer.layer.mixer
        rules = [
            _from_one(f"{public}.input_layernorm.weight", f"{ours}.mixer_norm.weight"),
            _from_one(f"{public}.post_attention_layernorm.weight", f"{ours}.mlp_norm.weight"),
            *separate_mlp(layer.layer.mlp, f"{public}.mlp", f"{ours}.mlp"),
        ]
        if mixer.is_attention:
            return [*rules, *_attention(mixer.shape, f"{public}.self_attn", f"{ours}.mixer")]
        none = Biases(inputs=False, outputs=False)
        return [*rules, *block_of(layer).rules(mixer, f"{public}.linear_attn", f"{ours}.mixer", none)]

    every = stack.rules(prefix, of_layer, last_norm="norm")
    last = f"{prefix}model.norm.weight"
    return [_from_one(last, "llm.norm.weight") if rule.public == (last,) else rule for rule in every]


def _from_one(public: str, ours: str) -> TensorRule:
    """A norm's weight as its difference from one."""
    return TensorRule(
        (public,),
        (ours,),
        read=lambda tensors: [tensors[0] + 1],
        write=lambda tensors: [tensors[0] - 1],
    )


def _attention(shape: MixerShape, public: str, ours: str) -> list[TensorRule]:
    """Head by head the rows of query and gate; keys, values, norms; the output projection twice as large."""

    def write(tensors: Tensors) -> Tensors:
        q, k, v = unpack_qkv(tensors[0], shape)
        by_head = q.reshape(shape.num_heads, shape.head_dim, -1)
        return [torch.stack([by_head, torch.zeros_like(by_head)], dim=1).flatten(0, 2), k, v]

    def read(tensors: Tensors) -> Tensors:
        q, k, v = tensors
        by_head = q.reshape(shape.num_heads, 2, shape.head_dim, -1)
        return [pack_qkv(by_head[:, 0].flatten(0, 1), k, v, shape)]

    names = tuple(f"{public}.{letter}_proj.weight" for letter in "qkv")
    return [
        derived(names, (f"{ours}.wqkv.weight",), read=read, write=write),
        TensorRule(
            (f"{public}.o_proj.weight",),
            (f"{ours}.wo.weight",),
            read=lambda tensors: [tensors[0] / 2],
            write=lambda tensors: [tensors[0] * 2],
        ),
        _from_one(f"{public}.q_norm.weight", f"{ours}.q_norm.weight"),
        _from_one(f"{public}.k_norm.weight", f"{ours}.k_norm.weight"),
    ]


QWEN3_NEXT = StockArchitecture(
    model_type="qwen3_next",
    model_class="Qwen3NextForCausalLM",
    why="its layers are Gated DeltaNet and Qwen3's attention",
    obstacles=_obstacles,
    config=_config,
    rules=_rules,
    rounded=("mixer_norm.weight", "mlp_norm.weight", "q_norm.weight", "k_norm.weight", "llm.norm.weight"),
)
