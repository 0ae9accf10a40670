"""The names of tensors in HoVLE's release; its layers are InternLM2's."""

from lab.core.mixers.tensor_rules import TensorRule, renamed
from lab.core.models.decoder import DecoderLayer
from lab.core.models.hovle.model import Hovle
from lab.core.models.tensor_names import KeyMap, layer_rules, mixer_rules, same_names


def names(model: Hovle) -> KeyMap:
    """The rules of every tensor."""
    vision = ("class_embedding", "position_embedding", "patch_embedding.weight", "patch_embedding.bias")
    projector = ("0.weight", "0.bias", "2.weight", "2.bias")
    return KeyMap(
        (
            *renamed("embedding_model.vision_embeddings", "embedding.vision", {name: name for name in vision}),
            *renamed("embedding_model", "embedding", {"llm_text_embeddings.weight": "tokens.weight"}),
            *renamed("embedding_model.pixel_shuffle_proj", "embedding.projector", {name: name for name in projector}),
            *layer_rules(model.embedding.layers, "embedding_model.encoder", "embedding.layers", _layer),
            *renamed("language_model.model", "llm", {"tok_embeddings.weight": "tokens.weight"}),
            *layer_rules(model.llm.layers, "language_model.model.layers", "llm.layers", _layer),
            *renamed("language_model.model", "llm", {"norm.weight": "norm.weight"}),
            *renamed("language_model", "llm", {"output.weight": "output.weight"}),
        )
    )


def _layer(layer: DecoderLayer, public: str, ours: str) -> list[TensorRule]:
    names = {
        "attention_norm.weight": "mixer_norm.weight",
        "ffn_norm.weight": "mlp_norm.weight",
        "feed_forward.w1.weight": "mlp.gate.weight",
        "feed_forward.w3.weight": "mlp.up.weight",
        "feed_forward.w2.weight": "mlp.down.weight",
    }
    # InternLM2 packs queries, keys and values as we do
    mixer = mixer_rules(layer.mixer, f"{public}.attention", f"{ours}.mixer", same_names)
    return [*renamed(public, ours, names), *mixer]
