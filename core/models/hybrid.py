"""Models whose layers have mixers of several kinds: which layer has which, and how Mamba-2 comes in."""

import torch

from lab.core.mixers.mamba2 import Mamba2, Mamba2Kernels, Mamba2Options
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import LanguageModel, MixerLayer


def layers_of_kind(model: LanguageModel, kind: str) -> list[MixerLayer]:
    """The layers whose mixer is of this kind."""
    return [layer for layer in model.mixer_layers() if layer.layer.mixer.kind == kind]


def mamba2_like(attention: SoftmaxAttention, options: Mamba2Options) -> Mamba2:
    """A mixer for an attention's place: of its shape and dtype, on the meta device, where it has no weights yet.

    Raises:
        ConfigError: if the options ask for what the attention does not have.
    """
    qkv_bias = attention.wqkv.bias is not None
    with torch.device("meta"):
        mixer = Mamba2(attention.shape, options=options, rotary=attention.rotary, qkv_bias=qkv_bias)
    return mixer.to(attention.wo.weight.dtype)


def choose_backends(model: LanguageModel, kernels: Mamba2Kernels) -> dict[str, str]:
    """Settle the implementations of all Mamba-2 layers, after the model has gone to its device; their names.

    Raises:
        BackendError: if one that is asked for by name cannot run there.
    """
    names: dict[str, str] = {}
    for layer in layers_of_kind(model, Mamba2.kind):
        assert isinstance(layer.layer.mixer, Mamba2), "the kind says so"
        names = layer.layer.mixer.choose_backends(kernels)
    return names
