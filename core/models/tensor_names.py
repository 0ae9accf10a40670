"""Where the tensors of public checkpoints are in our models, and the way back.

A rule ties some public tensors to some of ours that hold the same numbers: most are renamings, a few pack several
tensors into one. The rules of a layer depend on its mixer, so the keys of a hybrid follow from its layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.core.mixers.base import Mixer
from lab.core.mixers.mamba2 import Mamba2
from lab.core.mixers.softmax import SoftmaxAttention, pack_qkv, unpack_qkv
from lab.core.models.decoder import DecoderLayer, DecoderStack
from lab.core.models.hovle import Hovle
from lab.core.models.llama import Llama

Tensors = Sequence[Tensor]

# ends of names of tensors that follow from config.json
DERIVED = ("rotary_emb.inv_freq",)


def unchanged(tensors: Tensors) -> Tensors:
    """The tensors as they are."""
    return tensors


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Public tensors and those of ours that hold the same numbers.

    Attributes:
        public: their names in a checkpoint.
        ours: their names in the state_dict of the model.
        read: public tensors, in this order, to ours.
        write: our tensors, in this order, to the public ones; works on the meta device too.
    """

    public: tuple[str, ...]
    ours: tuple[str, ...]
    read: Callable[[Tensors], Tensors] = unchanged
    write: Callable[[Tensors], Tensors] = unchanged


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The rules of every tensor of a model.

    Attributes:
        rules: each of our tensors is in exactly one.
        ignored: ends of the names of public tensors that hold nothing of their own.
    """

    rules: tuple[KeyRule, ...]
    ignored: tuple[str, ...] = DERIVED

    def to_public(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state_dict under public names; on the meta device, the names and shapes that a checkpoint must have."""
        return {
            name: tensor
            for rule in self.rules
            for name, tensor in zip(rule.public, rule.write([ours[key] for key in rule.ours]), strict=True)
        }

    def to_ours(self, public: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The state_dict of the tensors that `public` gives by name, each asked for once."""
        return {
            name: tensor
            for rule in self.rules
            for name, tensor in zip(rule.ours, rule.read([public(key) for key in rule.public]), strict=True)
        }


def hovle_keys(model: Hovle) -> KeyMap:
    """The keys of HoVLE's release."""
    vision = ("class_embedding", "position_embedding", "patch_embedding.weight", "patch_embedding.bias")
    projector = ("0.weight", "0.bias", "2.weight", "2.bias")
    return KeyMap(
        (
            *_renamed("embedding_model.vision_embeddings", "embedding.vision", {name: name for name in vision}),
            *_renamed("embedding_model", "embedding", {"llm_text_embeddings.weight": "tokens.weight"}),
            *_renamed("embedding_model.pixel_shuffle_proj", "embedding.projector", {name: name for name in projector}),
            *_layers(model.embedding.layers, "embedding_model.encoder", "embedding.layers", _internlm2_layer),
            *_renamed("language_model.model", "llm", {"tok_embeddings.weight": "tokens.weight"}),
            *_layers(model.llm.layers, "language_model.model.layers", "llm.layers", _internlm2_layer),
            *_renamed("language_model.model", "llm", {"norm.weight": "norm.weight"}),
            *_renamed("language_model", "llm", {"output.weight": "output.weight"}),
        )
    )


def llama_keys(model: Llama) -> KeyMap:
    """The keys of Llama, SmolLM2 and Qwen2."""
    rules = (
        *_renamed("model", "llm", {"embed_tokens.weight": "tokens.weight", "norm.weight": "norm.weight"}),
        *_layers(model.llm.layers, "model.layers", "llm.layers", _llama_layer),
    )
    head = "lm_head.weight"
    if model.llm.output is None:
        return KeyMap(rules, ignored=(*DERIVED, head))
    return KeyMap((*rules, KeyRule((head,), ("llm.output.weight",))))


def _layers(
    layers: DecoderStack, public: str, ours: str, rules_of: Callable[[DecoderLayer, str, str], list[KeyRule]]
) -> list[KeyRule]:
    return [rule for i, layer in enumerate(layers) for rule in rules_of(layer, f"{public}.{i}", f"{ours}.{i}")]


def _internlm2_layer(layer: DecoderLayer, public: str, ours: str) -> list[KeyRule]:
    names = {
        "attention_norm.weight": "mixer_norm.weight",
        "ffn_norm.weight": "mlp_norm.weight",
        "feed_forward.w1.weight": "mlp.gate.weight",
        "feed_forward.w3.weight": "mlp.up.weight",
        "feed_forward.w2.weight": "mlp.down.weight",
    }
    mixer = INTERNLM2_MIXERS[layer.mixer.kind](layer.mixer, f"{public}.attention", f"{ours}.mixer")
    return [*_renamed(public, ours, names), *mixer]


def _llama_layer(layer: DecoderLayer, public: str, ours: str) -> list[KeyRule]:
    names = {
        "input_layernorm.weight": "mixer_norm.weight",
        "post_attention_layernorm.weight": "mlp_norm.weight",
        "mlp.gate_proj.weight": "mlp.gate.weight",
        "mlp.up_proj.weight": "mlp.up.weight",
        "mlp.down_proj.weight": "mlp.down.weight",
    }
    mixer = LLAMA_MIXERS[layer.mixer.kind](layer.mixer, f"{public}.self_attn", f"{ours}.mixer")
    return [*_renamed(public, ours, names), *mixer]


def _packed_attention(mixer: Mixer, public: str, ours: str) -> list[KeyRule]:
    return _renamed(public, ours, {name: name for name, _ in mixer.named_parameters()})


def _separate_attention(mixer: Mixer, public: str, ours: str) -> list[KeyRule]:
    assert isinstance(mixer, SoftmaxAttention), "the table says so"

    def pack(tensors: Tensors) -> Tensors:
        q, k, v = tensors
        return [pack_qkv(q, k, v, mixer.shape)]

    def unpack(tensors: Tensors) -> Tensors:
        return unpack_qkv(tensors[0], mixer.shape)

    parts = [name for name, _ in mixer.wqkv.named_parameters()]
    packed = [
        KeyRule(tuple(f"{public}.{p}_proj.{part}" for p in "qkv"), (f"{ours}.wqkv.{part}",), read=pack, write=unpack)
        for part in parts
    ]
    return [*packed, *_renamed(public, ours, {"o_proj.weight": "wo.weight"})]


def _fused_mamba2(mixer: Mixer, public: str, ours: str) -> list[KeyRule]:
    """mmMamba's release: one projection with the rows of v, k, q, gate and step sizes, in this order."""
    assert isinstance(mixer, Mamba2), "the table says so"
    projections = (mixer.vkq_proj, mixer.g_proj, mixer.in_proj)
    num_rows = [projection.out_features for projection in projections]

    def fuse(tensors: Tensors) -> Tensors:
        return [torch.cat(list(tensors))]

    def split(tensors: Tensors) -> Tensors:
        # cloned: each is trained on its own
        return [part.clone() for part in torch.split(tensors[0], num_rows)]

    names = {
        "conv1d.weight": "conv1d.weight",
        "conv1d.bias": "conv1d.bias",
        "dt_bias": "dt_bias",
        "A_log_bias": "A_log",
        "g_norm_swish_gate.weight": "g_norm.weight",
        "o_proj.weight": "o_proj.weight",
    }
    if mixer.vkq_proj.bias is not None:
        # of Qwen2's attention; the release has none, and therefore no name for it
        names["vkq_bias"] = "vkq_proj.bias"
    parts = tuple(f"{ours}.{name}.weight" for name in ("vkq_proj", "g_proj", "in_proj"))
    return [KeyRule((f"{public}.wvkqgdt.weight",), parts, read=split, write=fuse), *_renamed(public, ours, names)]


def _renamed(public: str, ours: str, names: Mapping[str, str]) -> list[KeyRule]:
    """One rule for each public name and ours, below two prefixes."""
    return [KeyRule((f"{public}.{name}",), (f"{ours}.{our_name}",)) for name, our_name in names.items()]


MixerRules = Callable[[Mixer, str, str], list[KeyRule]]

# how each family of checkpoints stores the mixer of a layer, by the mixer's kind
INTERNLM2_MIXERS: dict[str, MixerRules] = {SoftmaxAttention.kind: _packed_attention, Mamba2.kind: _fused_mamba2}
LLAMA_MIXERS: dict[str, MixerRules] = {SoftmaxAttention.kind: _separate_attention, Mamba2.kind: _fused_mamba2}
