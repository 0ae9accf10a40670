"""A student as one stack of decoder layers, as every stock architecture has it, and what no architecture can hold.

The two stacks of a HoVLE with pixel shuffle `pre` are one: no norm stands between them, and nothing reads the second
one's table of tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from lab.core.mixers.base import AttentionTraits, Mixer
from lab.core.mixers.gated import GatedMixer
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.mixers.spec import mixer_spec
from lab.core.mixers.stock_block import BlockKind, StockBlock
from lab.core.mixers.tensor_rules import TensorRule, renamed, with_zeros
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import DecoderLayer, LanguageModel, MixerLayer
from lab.core.models.hf_rotary import rotary_json

# taps that the kernels of servers have
_TAPS = (2, 3, 4)
_SAME = ("intermediate_size", "num_heads", "num_kv_heads", "head_dim", "rms_norm_eps", "mlp_bias", "qkv_bias")


@dataclass(frozen=True)
class Stack:
    """A student's layers in one list.

    Attributes:
        model: the student; its modules are `llm`, a `Decoder`, and where it reads images what stands in front.
    """

    model: LanguageModel

    @cached_property
    def layers(self) -> list[MixerLayer]:
        """All layers in the order of computation."""
        return self.model.mixer_layers()

    @property
    def config(self) -> DecoderConfig:
        """The sizes of the last stack; those of the others must be the same."""
        return self.model.config.decoders[-1]

    @cached_property
    def converted(self) -> list[GatedMixer]:
        """The mixers that replaced attention."""
        return [mixer for mixer in self._mixers() if isinstance(mixer, GatedMixer)]

    @cached_property
    def softmax(self) -> list[AttentionTraits]:
        """The attention that was kept."""
        return [mixer.traits for mixer in self._mixers() if mixer.is_attention]

    @property
    def rotary(self) -> RotaryConfig:
        """The rotary embedding of the attention that was kept; without any, the last stack's."""
        kept = [traits.rotary.config for traits in self.softmax if traits.rotary is not None]
        return kept[0] if kept else self.config.rotary

    def obstacles(self, kind: BlockKind) -> Iterator[str]:
        """Why no architecture whose recurrent layer is of a kind holds the student: key, value, and what would do."""
        for layer in self.layers:
            if type(layer.layer) is not DecoderLayer:
                yield f"the teacher's {type(layer.layer).__name__}: its layers are not those of a Llama"
                return
        if len(self.softmax) == len(self.layers):
            yield "student.hybrid keeps attention in every layer: it is the teacher; fewer such layers would do"
            return
        if not self.converted or len(self.converted) + len(self.softmax) < len(self.layers):
            names = sorted({layer.layer.mixer.kind for layer in self.layers})
            yield f"student.mixer.kind={' and '.join(names)}: {_instead(kind)}"
            return
        mixer = self.converted[0]
        block = mixer_spec(mixer.kind).stock
        if block is None or block.kind is not kind:
            yield f"student.mixer.kind={mixer.kind}: {_instead(kind)}"
            return
        found = block.obstacle(mixer)
        if found is not None:
            yield found
        yield from _of_options(mixer)
        yield from self._of_sizes()
        for traits in self.softmax:
            if traits.window is not None:
                yield f"window={traits.window}: its attention has no sliding window; a teacher without one would do"
                break
            if traits.other is not None:
                yield f"the teacher's attention has {traits.other}, which its own lacks; student=linear would do"
                break

    def _of_sizes(self) -> Iterator[str]:
        first = self.model.config.decoders[0]
        for name in _SAME:
            one, other = getattr(first, name), getattr(self.config, name)
            if one != other:
                yield f"embedding.{name}={one} is not llm.{name}={other}: its layers are alike"
        eps = self.converted[0].g_norm.eps
        if eps != self.config.rms_norm_eps:
            yield (
                f"student.mixer.norm_eps={eps:g} is not the teacher's rms_norm_eps={self.config.rms_norm_eps:g}: it "
                "has one epsilon; student.mixer.norm_eps=null would do"
            )
        kept = [None if traits.rotary is None else traits.rotary.config for traits in self.softmax]
        if len({repr(rotary) for rotary in kept}) > 1:
            yield "the rotary embeddings of kept layers differ: it has one; student.hybrid.layers that agree would do"

    def _mixers(self) -> Iterator[Mixer]:
        return (layer.layer.mixer for layer in self.layers)

    def rules(
        self, prefix: str, rules_of: Callable[[MixerLayer, str], Sequence[TensorRule]], *, last_norm: str
    ) -> list[TensorRule]:
        """The rules of every tensor.

        Args:
            prefix: of public names; empty where the model is text only.
            rules_of: the rules of a layer, whose public prefix it gets.
            last_norm: public name of the norm behind the layers.
        """
        body = f"{prefix}model"
        table = self.model.input_embedding.weight
        name = next(name for name, tensor in self.model.named_parameters() if tensor is table)
        names = dict(self.model.named_parameters())
        unread = [other for other in ("llm.tokens.weight",) if other in names and other != name]
        rules = [_table(f"{body}.embed_tokens.weight", name, unread)]
        for layer in self.layers:
            rules += rules_of(layer, f"{body}.layers.{layer.index}")
        rules += renamed(body, "llm", {f"{last_norm}.weight": "norm.weight"})
        if "llm.output.weight" in names:
            rules.append(TensorRule((f"{prefix}lm_head.weight",), ("llm.output.weight",)))
        return rules


def _of_options(mixer: GatedMixer) -> Iterator[str]:
    options = mixer.options
    if options.rotary:
        yield "student.mixer.rotary=true: its recurrent layers have no positions; false would do"
    if mixer.q_norm is not None:
        yield "student.mixer.qk_norm=true: its recurrent layers have no norms of queries and keys; false would do"
    if options.conv_kernel not in _TAPS:
        value = "null" if options.conv_kernel is None else options.conv_kernel
        yield f"student.mixer.conv_kernel={value}: kernels have 2, 3 or 4 taps; one of these would do"


def refuse_fraction(stack: Stack) -> Iterator[str]:
    """Attention that turns a part of each head, where an architecture turns all of it."""
    if stack.softmax and stack.rotary.fraction != 1:
        yield f"rotary.fraction={stack.rotary.fraction:g}: its attention turns whole heads; a teacher with 1 would do"


def without_qk_norm(stack: Stack) -> Iterator[str]:
    """Attention with norms of queries and keys, where an architecture has none."""
    if any(traits.qk_norm_eps is not None for traits in stack.softmax):
        yield "qk_norm=true: its attention has no norms of queries and keys; student=linear, without any, would do"


def rope_json(rotary: RotaryConfig, **more: Any) -> dict[str, Any]:
    """The rotary embedding as transformers 5 and as its predecessors write it."""
    scaling = rotary_json(rotary)["rope_scaling"] or {"rope_type": "default"}
    return {
        "max_position_embeddings": rotary.max_length,
        "rope_theta": rotary.theta,
        "rope_parameters": {**scaling, "rope_theta": rotary.theta, **more},
    }


def plain(rotary: RotaryConfig) -> RotaryConfig:
    """The same base and length without scaling, for attention that is silent."""
    return RotaryConfig(theta=rotary.theta, max_length=rotary.max_length, kind=RotaryKind.plain)


def block_of(layer: MixerLayer) -> StockBlock:
    """The stock layer of a converted layer's mixer."""
    block = mixer_spec(layer.layer.mixer.kind).stock
    assert block is not None, "an obstacle otherwise"
    return block


def with_biases(attention: list[TensorRule], stack: Stack, has_biases: bool) -> list[TensorRule]:
    """The rules of an attention, whose missing biases are zeros where the architecture has all of them."""
    config = stack.config
    widths = dict.fromkeys(("k_proj", "v_proj"), config.num_kv_heads * config.head_dim)
    widths |= {"q_proj": config.num_heads * config.head_dim, "o_proj": config.hidden_size}
    known = {name for rule in attention for name in rule.public}
    rules = []
    for rule in attention:
        missing = {
            f"{base}.bias": (widths[base.rpartition(".")[2]],)
            for base in (name.removesuffix(".weight") for name in rule.public)
            if has_biases and base.endswith("_proj") and f"{base}.bias" not in known
        }
        rules.append(with_zeros(rule, missing) if missing else rule)
    return rules


def _table(public: str, ours: str, unread: Sequence[str]) -> TensorRule:
    """Embeddings; a second table that nothing reads has no place and is read as zeros."""
    return TensorRule(
        (public,),
        (ours, *unread),
        read=lambda tensors: [tensors[0], *(torch.zeros_like(tensors[0]) for _ in unread)],
        write=lambda tensors: tensors[:1],
    )


def _instead(kind: BlockKind) -> str:
    if kind is BlockKind.mamba2:
        return "its layers are Mamba-2 and attention; student/mixer=mamba2 would do"
    return "its layers are Gated DeltaNet and attention; student/mixer=gated_deltanet would do"
