"""Where the tensors of public checkpoints are in our models, and the way back.

A rule ties some public tensors to some of ours that hold the same numbers: most are renamings, a few pack several
tensors into one. The rules of a layer depend on its mixer, so the names of a hybrid follow from its layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lab.core.mixers.base import Mixer
from lab.core.mixers.softmax import pack_qkv, unpack_qkv
from lab.core.mixers.spec import mixer_spec
from lab.core.mixers.tensor_rules import TensorRule, Tensors, renamed
from lab.core.models.decoder import DecoderLayer, DecoderStack
from lab.core.models.text_model import DecoderModel

LayerRules = Callable[[DecoderLayer, str, str], list[TensorRule]]
MixerRules = Callable[[Mixer, str, str], list[TensorRule]]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""Llama's names of the embedding of tokens and of the output head."""

# ends of names of tensors that follow from config.json
DERIVED = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The rules of every tensor of a model.

    Attributes:
        rules: each of our tensors is in exactly one.
        ignored: ends of the names of public tensors that follow from others.
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


def layer_rules(layers: DecoderStack, public: str, ours: str, rules_of: LayerRules) -> list[TensorRule]:
    """The rules of all layers of a stack, numbered from 0 on both sides."""
    return [rule for i, layer in enumerate(layers) for rule in rules_of(layer, f"{public}.{i}", f"{ours}.{i}")]


def mixer_rules(mixer: Mixer, public: str, ours: str, attention: MixerRules) -> list[TensorRule]:
    """How a family stores the mixer of a layer; `attention` is its way for softmax attention."""
    rules = attention if mixer.is_attention else mixer_spec(mixer.kind).tensor_rules
    return rules(mixer, public, ours)


def same_names(module: nn.Module, public: str, ours: str) -> list[TensorRule]:
    """The parameters of a module under the names that they have here."""
    return renamed(public, ours, {name: name for name, _ in module.named_parameters()})


def text_names(model: DecoderModel, layer: LayerRules | None = None) -> KeyMap:
    """The names of Llama, which other families use with other layers: `layer`."""
    rules = (
        TensorRule((EMBEDDING,), ("llm.tokens.weight",)),
        *renamed("model", "llm", {"norm.weight": "norm.weight"}),
        *layer_rules(model.llm.layers, "model.layers", "llm.layers", llama_layer if layer is None else layer),
    )
    if model.llm.output is None:
        # one that a checkpoint has all the same is the embedding again; see `with_stored_head`
        return KeyMap(rules, ignored=(*DERIVED, HEAD))
    return KeyMap((*rules, TensorRule((HEAD,), ("llm.output.weight",))))


def llama_layer(layer: DecoderLayer, public: str, ours: str) -> list[TensorRule]:
    """A layer of Llama: two norms, separate projections."""
    norms = {"input_layernorm.weight": "mixer_norm.weight", "post_attention_layernorm.weight": "mlp_norm.weight"}
    return [
        *renamed(public, ours, norms),
        *separate_mlp(layer.mlp, f"{public}.mlp", f"{ours}.mlp"),
        *mixer_rules(layer.mixer, f"{public}.self_attn", f"{ours}.mixer", separate_attention),
    ]


def separate_mlp(mlp: nn.Module, public: str, ours: str) -> list[TensorRule]:
    """gate_proj, up_proj and down_proj, with their biases if they have some."""
    return renamed(public, ours, {name.replace(".", "_proj."): name for name, _ in mlp.named_parameters()})


def separate_attention(attention: Mixer, public: str, ours: str) -> list[TensorRule]:
    """q_proj, k_proj, v_proj and o_proj, with biases and norms of queries and keys if there are some."""

    def pack(tensors: Tensors) -> Tensors:
        q, k, v = tensors
        return [pack_qkv(q, k, v, attention.shape)]

    def unpack(tensors: Tensors) -> Tensors:
        return unpack_qkv(tensors[0], attention.shape)

    rules: list[TensorRule] = []
    for name, _ in attention.named_parameters():
        module, part = name.rsplit(".", 1)
        if module == "wqkv":
            separate = tuple(f"{public}.{p}_proj.{part}" for p in "qkv")
            rules.append(TensorRule(separate, (f"{ours}.{name}",), read=pack, write=unpack))
        else:
            rules += renamed(public, ours, {f"o_proj.{part}" if module == "wo" else name: name})
    return rules
