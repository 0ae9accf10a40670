"""falcon_h1: Mamba-2, norm or gate first, and attention side by side in every layer.

The half of a layer that a student lacks is silent: its weights are zeros. A linear student has the smallest attention
that there can be; a hybrid has the cache of its attention in every layer. transformers runs it; servers that ignore
`mamba_norm_before_gate` compute something else.
"""

# Letters: D model width, H heads, P head_dim.

from collections.abc import Iterator
from typing import Any

from lab.core.mixers.stock_block import Biases, BlockKind
from lab.core.mixers.tensor_rules import TensorRule, renamed, with_zeros
from lab.core.models.decoder import MixerLayer
from lab.core.models.tensor_names import separate_attention, separate_mlp
from lab.core.stock.architecture import StockArchitecture
from lab.core.stock.stack import Stack, block_of, plain, refuse_fraction, rope_json, with_biases, without_qk_norm

# of an attention that nothing depends on
_SILENT_HEADS, _SILENT_WIDTH = 1, 2


def _obstacles(stack: Stack) -> Iterator[str]:
    """See `StockArchitecture.obstacles`."""
    yield from stack.obstacles(BlockKind.mamba2)
    if any(traits.rotary is None for traits in stack.softmax):
        yield "layers_without_rotary: its attention has a rotary embedding; student.hybrid.layers with one would do"
    yield from refuse_fraction(stack)
    yield from without_qk_norm(stack)


def _config(stack: Stack) -> dict[str, Any]:
    """See `StockArchitecture.config`."""
    config, mixer = stack.config, stack.converted[0]
    heads, kv_heads, width = _attention(stack)
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
        **rope_json(stack.rotary if stack.softmax else plain(stack.rotary)),
        "rms_norm_eps": config.rms_norm_eps,
        "mamba_d_ssm": mixer.states_per_head * config.num_heads * config.head_dim,
        "mamba_n_heads": mixer.states_per_head * config.num_heads,
        "mamba_d_head": config.head_dim,
        "mamba_n_groups": config.num_heads,
        "mamba_d_state": config.head_dim,
        "mamba_d_conv": mixer.options.conv_kernel,
        "mamba_conv_bias": mixer.options.conv_bias,
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": mixer.norm_before_gate,
        "mamba_proj_bias": config.qkv_bias,
        "projectors_bias": config.output_bias,
        "attention_bias": _has_attention_bias(stack),
        "mlp_bias": config.mlp_bias,
    }


def _rules(stack: Stack, prefix: str) -> list[TensorRule]:
    """See `StockArchitecture.rules`."""
    config = stack.config
    biases = Biases(inputs=config.qkv_bias, outputs=config.output_bias)

    def of_layer(layer: MixerLayer, public: str) -> list[TensorRule]:
        ours, mixer = layer.name, layer.layer.mixer
        norms = {"input_layernorm.weight": "mixer_norm.weight", "pre_ff_layernorm.weight": "mlp_norm.weight"}
        rules = [
            *renamed(public, ours, norms),
            *separate_mlp(layer.layer.mlp, f"{public}.feed_forward", f"{ours}.mlp"),
        ]
        if mixer.is_attention:
            attention = separate_attention(mixer, f"{public}.self_attn", f"{ours}.mixer")
            mixed, silent = with_biases(attention, stack, _has_attention_bias(stack)), _silent_mamba(stack)
            half = f"{public}.mamba"
        else:
            mixed = block_of(layer).rules(mixer, f"{public}.mamba", f"{ours}.mixer", biases)
            half, silent = f"{public}.self_attn", _silent_attention(stack)
        named = {f"{half}.{name}": size for name, size in silent.items()}
        return [*rules, *mixed[:-1], with_zeros(mixed[-1], named)]

    return stack.rules(prefix, of_layer, last_norm="final_layernorm")


def _attention(stack: Stack) -> tuple[int, int, int]:
    """Heads, key heads and width of a head of the attention in every layer."""
    config = stack.config
    if not stack.softmax:
        return _SILENT_HEADS, _SILENT_HEADS, _SILENT_WIDTH
    return config.num_heads, config.num_kv_heads, config.head_dim


def _has_attention_bias(stack: Stack) -> bool:
    return bool(stack.softmax) and (stack.config.qkv_bias or stack.config.output_bias)


def _silent_attention(stack: Stack) -> dict[str, tuple[int, ...]]:
    size, (heads, kv_heads, width) = stack.config.hidden_size, _attention(stack)
    rows = {"q_proj": heads * width, "k_proj": kv_heads * width, "v_proj": kv_heads * width}
    sizes: dict[str, tuple[int, ...]] = {f"{name}.weight": (count, size) for name, count in rows.items()}
    sizes["o_proj.weight"] = (size, heads * width)
    if _has_attention_bias(stack):
        sizes |= {f"{name}.bias": (count,) for name, count in (*rows.items(), ("o_proj", size))}
    return sizes


def _silent_mamba(stack: Stack) -> dict[str, tuple[int, ...]]:
    config, mixer = stack.config, stack.converted[0]
    keys, states = config.num_heads * config.head_dim, mixer.states_per_head * config.num_heads
    width = states * config.head_dim
    channels, taps = width + 2 * keys, mixer.options.conv_kernel or 1
    sizes: dict[str, tuple[int, ...]] = {
        "in_proj.weight": (width + channels + states, config.hidden_size),
        "conv1d.weight": (channels, 1, taps),
        "norm.weight": (width,),
        "out_proj.weight": (config.hidden_size, width),
        **dict.fromkeys(("A_log", "D", "dt_bias"), (states,)),
    }
    if mixer.options.conv_bias:
        sizes["conv1d.bias"] = (channels,)
    if config.qkv_bias:
        sizes["in_proj.bias"] = (width + channels + states,)
    if config.output_bias:
        sizes["out_proj.bias"] = (config.hidden_size,)
    return sizes


FALCON_H1 = StockArchitecture(
    model_type="falcon_h1",
    model_class="FalconH1ForCausalLM",
    why="its Mamba-2 layers norm and gate in either order; what a layer lacks is silent there",
    obstacles=_obstacles,
    config=_config,
    rules=_rules,
)
