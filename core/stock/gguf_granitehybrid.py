"""granitehybrid, the architecture of llama.cpp that holds what granitemoehybrid of transformers does: keys and tensors.

Its Mamba-2 layers are twice as wide as the model. Those of a student with two timescales are too, and are stored as
they are. Those of another student are as wide as the model; there each head's values and gate stand twice, as one head
of 2 P channels: its norm over both halves is the norm over one, and the output projection reads the first half and has
zeros for the second. The state is that of twice as many heads, as with heads of zeros beside the real ones, but keys,
queries and step sizes stand there once.
"""

# Letters: D model width, H heads, P head_dim, K taps of the convolution.

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lab.core.errors import ConfigError
from lab.core.mixers.rotary import Rotary, RotaryKind
from lab.core.models.decoder import LanguageModel
from lab.core.stock.granitemoehybrid import GRANITEMOEHYBRID
from lab.core.stock.layout import StockLayout
from lab.core.stock.stack import Stack

ARCHITECTURE = "granitehybrid"
Value = bool | int | float | str | Sequence[str] | Sequence[int] | Sequence[float]

_ROTARY = (RotaryKind.plain, RotaryKind.linear, RotaryKind.llama3)
_ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}


def stack_for_llama(student: LanguageModel) -> Stack:
    """The layers of a student that llama.cpp can run.

    Raises:
        ConfigError: saying why it cannot run this one, by key and value, and what would do.
    """
    stack = Stack(student)
    found = list(_obstacles(stack))
    if found:
        raise ConfigError(f"{ARCHITECTURE} of llama.cpp does not hold this student: {' and '.join(found)}")
    return stack


def _obstacles(stack: Stack) -> Iterator[str]:
    vision, config = stack.model.config.vision, stack.config
    if vision is not None:
        yield f"vision.image_size={vision.image_size}: it reads no images; --format transformers would do"
        return
    yield from GRANITEMOEHYBRID.obstacles(stack)
    if config.qkv_bias or config.output_bias:
        key = "qkv_bias" if config.qkv_bias else "output_bias"
        yield f"{key}=true: projections of its Mamba-2 layers have no biases; --format transformers would do"
    if stack.softmax and stack.rotary.kind not in _ROTARY:
        yield f"rotary.kind={stack.rotary.kind.value}: its angles are others; --format transformers would do"


def keys_of(stack: Stack) -> dict[str, Value]:
    """The keys that its mathematics depends on, under the names of llama.cpp."""
    config, mixer, rotary = stack.config, stack.converted[0], stack.rotary
    has_positions = any(traits.rotary is not None for traits in stack.softmax)
    keys: dict[str, Value] = {
        "context_length": rotary.longest or rotary.max_length,
        "embedding_length": config.hidden_size,
        "block_count": len(stack.layers),
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_heads,
        # a layer without heads of keys and values is Mamba-2
        "attention.head_count_kv": [
            config.num_kv_heads if layer.layer.mixer.is_attention else 0 for layer in stack.layers
        ],
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.scale": config.head_dim**-0.5,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(rotary.theta),
        # whether attention has a rotary embedding, whatever the name says
        "rope.scaling.finetuned": has_positions,
        "ssm.conv_kernel": mixer.options.conv_kernel or 0,
        "ssm.inner_size": 2 * config.num_heads * config.head_dim,
        "ssm.state_size": config.head_dim,
        "ssm.group_count": config.num_heads,
        # each has one step size
        "ssm.time_step_rank": mixer.states_per_head * config.num_heads,
    }
    if has_positions and rotary.kind is RotaryKind.linear:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rotary.factor)}
    return {f"{ARCHITECTURE}.{name}": value for name, value in keys.items()}


def tensors_of(stack: Stack, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in float32, under the names of llama.cpp.

    Args:
        stack: the layers of the student.
        state: its state_dict.
    """
    public = StockLayout(GRANITEMOEHYBRID, stack, None).keys().to_public(state)
    for name, tensor in _of_model(stack, public):
        yield name, tensor.float().contiguous()


def _of_model(stack: Stack, public: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "token_embd.weight", public["model.embed_tokens.weight"]
    yield "output_norm.weight", public["model.norm.weight"]
    if not stack.config.tie_output:
        yield "output.weight", public["lm_head.weight"]
    if stack.softmax and stack.rotary.kind is RotaryKind.llama3:
        yield "rope_freqs.weight", Rotary(stack.rotary, head_dim=stack.config.head_dim).divisors()
    for layer in stack.layers:
        theirs, name = f"model.layers.{layer.index}", f"blk.{layer.index}"
        yield f"{name}.attn_norm.weight", public[f"{theirs}.input_layernorm.weight"]
        yield f"{name}.ffn_norm.weight", public[f"{theirs}.post_attention_layernorm.weight"]
        gate, up = public[f"{theirs}.shared_mlp.input_linear.weight"].chunk(2)
        yield f"{name}.ffn_gate.weight", gate
        yield f"{name}.ffn_up.weight", up
        yield f"{name}.ffn_down.weight", public[f"{theirs}.shared_mlp.output_linear.weight"]
        of_mixer = _of_attention if layer.layer.mixer.is_attention else _of_mamba
        yield from of_mixer(stack, public, theirs, name)


def _of_attention(stack: Stack, public: Mapping[str, Tensor], theirs: str, name: str) -> Iterator[tuple[str, Tensor]]:
    for ours, other in _ATTENTION.items():
        weight = public[f"{theirs}.self_attn.{ours}.weight"]
        turns = ours in ("q_proj", "k_proj")
        yield f"{name}.{other}.weight", _in_pairs(weight, stack.config.head_dim) if turns else weight


def _of_mamba(stack: Stack, public: Mapping[str, Tensor], theirs: str, name: str) -> Iterator[tuple[str, Tensor]]:
    prefix = f"{theirs}.mamba."
    found = {key.removeprefix(prefix): tensor for key, tensor in public.items() if key.startswith(prefix)}
    if stack.converted[0].states_per_head == 1:
        found = _twice_as_wide(found, stack.config.num_heads)
    yield f"{name}.ssm_in.weight", found["in_proj.weight"]
    taps = found["conv1d.weight"].squeeze(1)
    yield f"{name}.ssm_conv1d.weight", taps
    # llama.cpp adds it without looking
    yield f"{name}.ssm_conv1d.bias", found.get("conv1d.bias", taps.new_zeros(len(taps)))
    yield f"{name}.ssm_dt.bias", found["dt_bias"]
    yield f"{name}.ssm_a", -torch.exp(found["A_log"].float())[:, None]
    yield f"{name}.ssm_d", found["D"][:, None]
    yield f"{name}.ssm_norm.weight", found["norm.weight"].view(stack.config.num_heads, -1)
    yield f"{name}.ssm_out.weight", found["out_proj.weight"]


def _twice_as_wide(found: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """A Mamba-2 layer in which each head's values and gate stand twice, and its outputs are read once."""
    width = len(found["norm.weight"])
    gate, rest = torch.split(found["in_proj.weight"], [width, 3 * width + num_heads])
    by_head = found["out_proj.weight"].reshape(-1, num_heads, width // num_heads)
    wide = {
        "in_proj.weight": torch.cat([_twice(gate, num_heads), _values_twice(rest, num_heads, width)]),
        "norm.weight": _twice(found["norm.weight"], num_heads),
        "out_proj.weight": torch.cat([by_head, torch.zeros_like(by_head)], dim=2).flatten(1),
    }
    convolved = {
        name: _values_twice(tensor, num_heads, width) for name, tensor in found.items() if name.startswith("conv1d.")
    }
    return {**found, **wide, **convolved}


def _values_twice(rows: Tensor, num_heads: int, width: int) -> Tensor:
    """Rows, taps or biases, whose first are those of values."""
    v, rest = torch.split(rows, [width, len(rows) - width])
    return torch.cat([_twice(v, num_heads), rest])


def _twice(rows: Tensor, num_heads: int) -> Tensor:
    """The rows of each head two times."""
    by_head = rows.reshape(num_heads, -1, *rows.shape[1:])
    return torch.cat([by_head, by_head], dim=1).flatten(0, 1)


def _in_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of heads whose pairs of turning channels are P / 2 apart, with the channels of a pair side by side."""
    return weight.reshape(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
