"""A teacher's step as HoVLE's released code takes it, in torch: the paper's baseline (arXiv 2502.13145, figure 1 c, d).

In every step, each layer makes new tables of all angles once the sequence is longer than those of the training, each
from the first position on, and puts the whole cache and the new token together in new memory before it attends.
"""

# Letters: T tokens, D model width, H heads, G key/value heads, P head_dim, V vocabulary.

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lab.core.mixers.rotary import Rotary, RotaryConfig, RotaryKind
from lab.core.mixers.softmax import KvState, SoftmaxAttention
from lab.core.models.decoder import DecoderLayer, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.products import current
from lab.experiments.bench.long_context.models import last_decoder

NAME = "teacher, the paper's way"


class PaperSteps:
    """Steps of a teacher over its cache.

    The memory of a layer's tables and concatenation serves the next layer, as the allocator of a GPU gives it: new
    memory would cost a CPU more time than writing it. The release keeps every layer's tables, 3 GB at 103K tokens.
    """

    def __init__(self, model: LanguageModel, state: DecodingState) -> None:
        """Steps after the tokens of a state, which has room for them.

        Args:
            model: all layers are attention.
            state: of the tokens so far.
        """
        self._model = model
        self._state = state
        self._tables: dict[Rotary, Tables] = {}
        self._kept: dict[str, Tensor] = {}

    @staticmethod
    def why_not(model: LanguageModel) -> str | None:
        """What the released code does not have of a model; None if it has everything."""
        for layer in model.mixer_layers():
            mixer = layer.layer.mixer
            assert isinstance(mixer, SoftmaxAttention), "a teacher has no other"
            if mixer.window is not None or mixer.rotary is None:
                return "the released code has no windows, and positions in every layer"
            if mixer.rotary.config.kind not in (RotaryKind.plain, RotaryKind.dynamic):
                return (
                    f"the released code is followed for rotary.kind=plain and dynamic, not {mixer.rotary.config.kind}"
                )
        return None

    @torch.no_grad()
    def logits(self, token: Int[Tensor, "1 1"]) -> Float[Tensor, "1 V"]:
        """The scores of the token after `token`, which the state takes in."""
        model = self._model
        with current.using("torch"):
            x = model.input_embedding(token)
            for layer, state in zip(model.mixer_layers(), self._state.layers, strict=True):
                assert isinstance(state, KvState), "a teacher has no other"
                x = self._layer(layer.layer, state, x)
            return model.logits(last_decoder(model).norm(x))[:, 0]

    def _layer(self, layer: DecoderLayer, state: KvState, x: Float[Tensor, "1 1 D"]) -> Float[Tensor, "1 1 D"]:
        mixer = layer.mixer
        assert isinstance(mixer, SoftmaxAttention), "a teacher has no other"
        assert mixer.rotary is not None, "why_not was asked"
        shape, position = mixer.shape, state.length
        by_group = mixer.wqkv(layer.mixer_input(x)).view(
            1, 1, shape.num_kv_heads, shape.heads_per_group + 2, shape.head_dim
        )
        cos, sin = self._angles(mixer.rotary, position + 1, x)
        turned = _turn(mixer.normed(by_group[..., :-1, :]), cos[position], sin[position])
        q = turned[..., :-1, :].flatten(2, 3).transpose(1, 2)
        new = {"keys": turned[..., -1, :].transpose(1, 2), "values": by_group[..., -1, :].transpose(1, 2)}
        joined = (1, shape.num_kv_heads, position + 1, shape.head_dim)
        keys, values = (
            torch.cat([held[:, :, :position], new[name]], dim=2, out=self._memory(name, joined, held))
            for name, held in (("keys", state.keys), ("values", state.values))
        )
        means = scaled_dot_product_attention(q, keys, values, enable_gqa=True)
        # what the next step would read is where it is in the state
        state.keys[:, :, position], state.values[:, :, position] = new["keys"][:, :, 0], new["values"][:, :, 0]
        state.length = position + 1
        return layer.after_mixer(x, mixer.wo(means.transpose(1, 2).flatten(2)))

    def _angles(self, rotary: Rotary, length: int, like: Tensor) -> "Tables":
        """Up to the length of the training one table serves all steps; beyond it, every step makes its own."""
        config = rotary.config
        if length > config.max_length:
            return self._new_tables(config, rotary.width, length, like)
        if rotary not in self._tables:
            cos, sin = self._new_tables(config, rotary.width, config.max_length, like)
            self._tables[rotary] = cos.clone(), sin.clone()
        return self._tables[rotary]

    def _new_tables(self, config: RotaryConfig, width: int, length: int, like: Tensor) -> "Tables":
        """Cosines and sines of all positions, in float32; each angle stands twice, for both channels of a pair."""
        theta = config.theta
        if config.kind is RotaryKind.dynamic and length > config.max_length:
            stretch = config.factor * length / config.max_length - (config.factor - 1)
            theta *= stretch ** (width / (width - 2))
        frequencies = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
        positions = torch.arange(length, dtype=torch.float32)
        half = self._memory("half", (length, width // 2), frequencies)
        torch.outer(positions, frequencies, out=half)
        turns = torch.cat([half, half], dim=-1, out=self._memory("turns", (length, width), frequencies))
        wide = self._memory("wide", (length, width), frequencies)
        cos = self._memory("cos", (length, width), like).copy_(torch.cos(turns, out=wide))
        sin = self._memory("sin", (length, width), like).copy_(torch.sin(turns, out=wide))
        return cos, sin

    def _memory(self, name: str, size: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory that is kept for the next layer and the next step."""
        count = math.prod(size)
        kept = self._kept.get(name)
        if kept is None or kept.numel() < count:
            kept = self._kept[name] = like.new_empty(count)
        return kept[:count].view(size)


Tables = tuple[Float[Tensor, "T P"], Float[Tensor, "T P"]]


def _turn(heads: Float[Tensor, "1 1 G N P"], cos: Float[Tensor, " P"], sin: Float[Tensor, " P"]) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def paper_bytes(model: LanguageModel, num_tokens: int) -> int:
    """What the release holds besides weights and cache: the tables of every layer, and a layer's concatenation.

    Tables are in the dtype of the weights up to the length of the training and in float32 beyond it.
    """
    total, joined = 0, 0
    for layer in model.mixer_layers():
        mixer = layer.layer.mixer
        assert isinstance(mixer, SoftmaxAttention), "a teacher has no other"
        joined = mixer.bytes_per_token * num_tokens
        if mixer.rotary is not None:
            most = mixer.rotary.config.max_length
            itemsize = 4 if num_tokens >= most else mixer.wo.weight.itemsize
            total += 2 * max(most, num_tokens) * mixer.rotary.width * itemsize
    return total + joined
