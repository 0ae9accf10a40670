"""Where the tensors of public checkpoints are in our models, and the way back.

A rule ties some public tensors to some of ours that hold the same numbers: most are renamings, a few pack several
tensors into one. The rules of a layer depend on its mixer, so the keys of a hybrid follow from its layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lab.core.mixers.base import Mixer
from lab.core.mixers.softmax import SoftmaxAttention, pack_qkv, unpack_qkv
from lab.core.mixers.spec import mixer_spec
from lab.core.mixers.tensor_rules import TensorRule, Tensors, renamed
from lab.core.models.decoder import DecoderLayer, DecoderStack
from lab.core.models.hovle import Hovle
from lab.core.models.llama import Llama

# ends of names of tensors that follow from config.json
DERIVED = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The rules of every tensor of a model.

    Attributes:
        rules: each of our tensors is in exactly one.
        ignored: ends of the names of public tensors that hold nothing of their own.
    """

    rules: tuple[TensorRule, ...]
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
            *renamed("embedding_model.vision_embeddings", "embedding.vision", {name: name for name in vision}),
            *renamed("embedding_model", "embedding", {"llm_text_embeddings.weight": "tokens.weight"}),
            *renamed("embedding_model.pixel_shuffle_proj", "embedding.projector", {name: name for name in projector}),
            *_layers(model.embedding.layers, "embedding_model.encoder", "embedding.layers", _internlm2_layer),
            *renamed("language_model.model", "llm", {"tok_embeddings.weight": "tokens.weight"}),
            *_layers(model.llm.layers, "language_model.model.layers", "llm.layers", _internlm2_layer),
            *renamed("language_model.model", "llm", {"norm.weight": "norm.weight"}),
            *renamed("language_model", "llm", {"output.weight": "output.weight"}),
        )
    )


def llama_keys(model: Llama) -> KeyMap:
    """The keys of Llama, SmolLM2 and Qwen2."""
    rules = (
        *renamed("model", "llm", {"embed_tokens.weight": "tokens.weight", "norm.weight": "norm.weight"}),
        *_layers(model.llm.layers, "model.layers", "llm.layers", _llama_layer),
    )
    head = "lm_head.weight"
    if model.llm.output is None:
        return KeyMap(rules, ignored=(*DERIVED, head))
    return KeyMap((*rules, TensorRule((head,), ("llm.output.weight",))))


def _layers(
    layers: DecoderStack, public: str, ours: str, rules_of: Callable[[DecoderLayer, str, str], list[TensorRule]]
) -> list[TensorRule]:
    return [rule for i, layer in enumerate(layers) for rule in rules_of(layer, f"{public}.{i}", f"{ours}.{i}")]


def _internlm2_layer(layer: DecoderLayer, public: str, ours: str) -> list[TensorRule]:
    names = {
        "attention_norm.weight": "mixer_norm.weight",
        "ffn_norm.weight": "mlp_norm.weight",
        "feed_forward.w1.weight": "mlp.gate.weight",
        "feed_forward.w3.weight": "mlp.up.weight",
        "feed_forward.w2.weight": "mlp.down.weight",
    }
    mixer = _mixer_rules(layer.mixer, f"{public}.attention", f"{ours}.mixer", _packed_attention)
    return [*renamed(public, ours, names), *mixer]


def _llama_layer(layer: DecoderLayer, public: str, ours: str) -> list[TensorRule]:
    names = {
        "input_layernorm.weight": "mixer_norm.weight",
        "post_attention_layernorm.weight": "mlp_norm.weight",
        "mlp.gate_proj.weight": "mlp.gate.weight",
        "mlp.up_proj.weight": "mlp.up.weight",
        "mlp.down_proj.weight": "mlp.down.weight",
    }
    mixer = _mixer_rules(layer.mixer, f"{public}.self_attn", f"{ours}.mixer", _separate_attention)
    return [*renamed(public, ours, names), *mixer]


def _packed_attention(mixer: Mixer, public: str, ours: str) -> list[TensorRule]:
    return renamed(public, ours, {name: name for name, _ in mixer.named_parameters()})


def _separate_attention(mixer: Mixer, public: str, ours: str) -> list[TensorRule]:
    assert isinstance(mixer, SoftmaxAttention), "the table says so"

    def pack(tensors: Tensors) -> Tensors:
        q, k, v = tensors
        return [pack_qkv(q, k, v, mixer.shape)]

    def unpack(tensors: Tensors) -> Tensors:
        return unpack_qkv(tensors[0], mixer.shape)

    parts = [name for name, _ in mixer.wqkv.named_parameters()]
    packed = [
        TensorRule(tuple(f"{public}.{p}_proj.{part}" for p in "qkv"), (f"{ours}.wqkv.{part}",), read=pack, write=unpack)
        for part in parts
    ]
    return [*packed, *renamed(public, ours, {"o_proj.weight": "wo.weight"})]


MixerRules = Callable[[Mixer, str, str], list[TensorRule]]


def _mixer_rules(mixer: Mixer, public: str, ours: str, attention: MixerRules) -> list[TensorRule]:
    """How a family stores the mixer of a layer; `attention` is its way for softmax attention."""
    rules = attention if mixer.is_attention else mixer_spec(mixer.kind).tensor_rules
    return rules(mixer, public, ours)
