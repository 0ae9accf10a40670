"""What a student is measured against, without training: the teacher blind, and the teacher with a short memory."""

# Letters: B batch, T tokens, D model width, H heads, P head_dim.

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lab.core.data.batch import Batch
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import LanguageModel


def blank_pictures(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same questions about pictures of one even grey: what the text alone gives away."""
    for batch in batches:
        yield replace(batch, pixel_values=torch.zeros_like(batch.pixel_values))


def with_window(teacher: LanguageModel, *, window: int, num_sinks: int) -> LanguageModel:
    """The teacher, every attention of which sees the last `window` tokens and the first `num_sinks` only.

    Weights are the teacher's own, in the same memory. A baseline that costs nothing and that linear students have lost
    to (Xiao et al., arXiv 2309.17453, is where the sinks come from).
    """
    memo = {id(tensor): tensor for tensor in (*teacher.parameters(), *teacher.buffers())}
    windowed = copy.deepcopy(teacher, memo)
    for layer in windowed.mixer_layers():
        attention = layer.layer.mixer
        assert isinstance(attention, SoftmaxAttention), "a teacher has softmax attention only"
        layer.layer.mixer = WindowedAttention(attention, window=window, num_sinks=num_sinks)
    return windowed.requires_grad_(False).eval()


class WindowedAttention(SoftmaxAttention):
    """Softmax attention over the last `window` tokens, the current one among them, and the first `num_sinks`."""

    kind: ClassVar[str] = "windowed_softmax"

    def __init__(self, attention: SoftmaxAttention, *, window: int, num_sinks: int) -> None:
        """An attention that shares the weights of another."""
        with torch.device("meta"):
            super().__init__(attention.shape, rotary=attention.rotary, qkv_bias=attention.wqkv.bias is not None)
        self.wqkv, self.wo = attention.wqkv, attention.wo
        self.window = window
        self.num_sinks = num_sinks

    def heads(self, u: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T P"]:
        """The attention's weighted means of the values that it still sees."""
        assert self.window is not None, "given when it is made"
        num_tokens = u.shape[1]
        q, k, v = self._project(u, self._angles(0, num_tokens, length=num_tokens, like=u))
        mask = visible(num_tokens, window=self.window, num_sinks=self.num_sinks).to(u.device)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def visible(num_tokens: int, *, window: int, num_sinks: int) -> Bool[Tensor, "T T"]:
    """Whether query t (row) sees key s (column)."""
    t, s = torch.arange(num_tokens)[:, None], torch.arange(num_tokens)[None, :]
    return (s <= t) & ((t - s < window) | (s < num_sinks))
