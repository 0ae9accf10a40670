"""granitemoehybrid: gate-first Mamba-2 or attention in each layer, both of the model's width.

transformers, vLLM, SGLang, llama.cpp and MLX run it. A cache of transformers needs a layer of attention.
"""

# Letters: D model width, H heads, P head_dim.

from collections.abc import Iterator
from typing import Any

import torch

from lab.core.mixers.stock_block import Biases, BlockKind
from lab.core.mixers.tensor_rules import TensorRule, Tensors, derived, renamed
from lab.core.models.decoder import MixerLayer
from lab.core.models.tensor_names import separate_attention
from lab.core.stock.architecture import StockArchitecture
from lab.core.stock.stack import Stack, block_of, refuse_fraction, rope_json, with_biases, without_qk_norm


def _obstacles(stack: Stack) -> Iterator[str]:
    """See `StockArchitecture.obstacles`."""
    yield from stack.obstacles(BlockKind.mamba2)
    config = stack.config
    if stack.converted and stack.converted[0].norm_before_gate:
        yield "student.mixer.norm_before_gate=true: its gate comes first; student=serving would do"
    if not stack.softmax:
        yield "student.hybrid keeps no attention, without which its cache cannot decode; student=serving would do"
    width = config.num_heads * config.head_dim
    if width != config.hidden_size:
        yield (
            f"num_heads={config.num_heads} times head_dim={config.head_dim} is not hidden_size={config.hidden_size}: "
            "its heads are as wide as the model"
        )
    if config.mlp_bias:
        yield "mlp_bias=true: its MLP has no biases; a teacher without would do"
    yield from refuse_fraction(stack)
    yield from without_qk_norm(stack)


def _config(stack: Stack) -> dict[str, Any]:
    """See `StockArchitecture.config`."""
    config, mixer = stack.config, stack.converted[0]
    has_positions = any(traits.rotary is not None for traits in stack.softmax)
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "attention_multiplier": config.head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "position_embedding_type": "rope" if has_positions else None,
        **rope_json(stack.rotary),
        "rms_norm_eps": config.rms_norm_eps,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": config.intermediate_size,
        "mamba_expand": mixer.states_per_head,
        "mamba_n_heads": mixer.states_per_head * config.num_heads,
        "mamba_d_head": config.head_dim,
        "mamba_n_groups": config.num_heads,
        "mamba_d_state": config.head_dim,
        "mamba_d_conv": mixer.options.conv_kernel,
        "mamba_conv_bias": mixer.options.conv_bias,
        "mamba_proj_bias": _has_biases(stack),
        "attention_bias": _has_biases(stack),
        # the names that servers of every age know
        "layer_types": ["attention" if layer.layer.mixer.is_attention else "mamba" for layer in stack.layers],
    }


def _rules(stack: Stack, prefix: str) -> list[TensorRule]:
    """See `StockArchitecture.rules`."""
    has_biases = _has_biases(stack)

    def of_layer(layer: MixerLayer, public: str) -> list[TensorRule]:
        ours, mixer = layer.name, layer.layer.mixer
        norms = {"input_layernorm.weight": "mixer_norm.weight", "post_attention_layernorm.weight": "mlp_norm.weight"}
        rules = [*renamed(public, ours, norms), *_mlp(f"{public}.shared_mlp", f"{ours}.mlp")]
        if not mixer.is_attention:
            biases = Biases(inputs=has_biases, outputs=has_biases)
            return [*rules, *block_of(layer).rules(mixer, f"{public}.mamba", f"{ours}.mixer", biases)]
        attention = separate_attention(mixer, f"{public}.self_attn", f"{ours}.mixer")
        return [*rules, *with_biases(attention, stack, has_biases)]

    return stack.rules(prefix, of_layer, last_norm="norm")


def _has_biases(stack: Stack) -> bool:
    return stack.config.qkv_bias or stack.config.output_bias


def _mlp(public: str, ours: str) -> list[TensorRule]:
    """Gate and up in one matrix."""

    def read(tensors: Tensors) -> Tensors:
        gate, up = tensors[0].chunk(2)
        return [gate.clone(), up.clone()]

    fused = derived(
        (f"{public}.input_linear.weight",),
        (f"{ours}.gate.weight", f"{ours}.up.weight"),
        read=read,
        write=lambda tensors: [torch.cat(list(tensors))],
    )
    return [fused, *renamed(public, ours, {"output_linear.weight": "down.weight"})]


GRANITEMOEHYBRID = StockArchitecture(
    model_type="granitemoehybrid",
    model_class="GraniteMoeHybridForCausalLM",
    why="its Mamba-2 layers gate first and some layers are attention",
    obstacles=_obstacles,
    config=_config,
    rules=_rules,
)
