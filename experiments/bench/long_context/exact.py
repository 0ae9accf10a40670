"""Scores in the next wider dtype, from the same weights and caches: a layer at a time, so that they fit into memory."""

# Letters: B batch, T tokens, D model width, V vocabulary.

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module

from lab.core.mixers.base import MixerState
from lab.core.mixers.recurrent_state import RecurrentState
from lab.core.mixers.rotary import rotate
from lab.core.mixers.softmax import KvState, SoftmaxAttention
from lab.core.models.decoder import DecoderLayer, Inputs, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.products import current
from lab.experiments.bench.long_context.models import head_of, last_decoder

WIDER = {torch.bfloat16: torch.float32, torch.float32: torch.float64}
# rows of the output head that are widened at once
_HEAD_ROWS = 8192


class _SeenError(Exception):
    """Ends a forward pass once its first layer's input is known."""


class Exact:
    """Computes with torch's layers; keeps the memory into which weights are widened.

    Attributes:
        name: of the wider dtype.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """For models of this dtype."""
        self._dtype = WIDER[dtype]
        self.name = str(self._dtype).removeprefix("torch.")
        self._memory: dict[str, Tensor] = {}

    def step(self, model: LanguageModel, state: DecodingState, token: Int[Tensor, "1 1"]) -> Float[Tensor, "1 V"]:
        """The scores of the token after `token`; the state stays as it is."""
        x = model.input_embedding(token).to(self._dtype)
        return self._through(model, x, map(self._state, state.layers))

    def whole(self, model: LanguageModel, inputs: Inputs) -> Float[Tensor, "1 V"]:
        """The scores of the token after those of `inputs`, in one pass; patches are embedded as the model does it."""
        x = _first_input(model, inputs).to(self._dtype)
        return self._through(model, x, iter([None] * len(model.mixer_layers())))

    @torch.no_grad()
    def _through(
        self, model: LanguageModel, x: Float[Tensor, "1 T D"], states: Iterator[MixerState | None]
    ) -> Float[Tensor, "1 V"]:
        with current.using("torch"):
            for layer in model.mixer_layers():
                step = _Step(layer.layer)
                x = functional_call(step, self._weights(step), (x, next(states)))
            decoder = last_decoder(model)
            x = functional_call(decoder.norm, self._weights(decoder.norm), (x[:, -1],))
        rows = torch.split(head_of(decoder), _HEAD_ROWS)
        return torch.cat([x @ self._wide("head", part).T for part in rows], dim=1)

    def _weights(self, module: Module) -> dict[str, Tensor]:
        return {name: self._wide(name, parameter) for name, parameter in module.named_parameters()}

    def _state(self, state: MixerState) -> MixerState:
        if isinstance(state, KvState):
            return state
        assert isinstance(state, RecurrentState), "a mixer without a cache"
        conv, recurrent = self._wide("conv", state.conv), self._wide("recurrent", state.recurrent)
        return RecurrentState(conv=conv, recurrent=recurrent, max_length=state.max_length, length=state.length)

    def _wide(self, name: str, tensor: Tensor) -> Tensor:
        """A copy, in memory that the next tensor of this name overwrites."""
        memory = self._memory.get(name)
        if memory is None or memory.numel() < tensor.numel():
            memory = self._memory[name] = torch.empty(tensor.numel(), dtype=self._dtype)
        return memory[: tensor.numel()].view(tensor.shape).copy_(tensor)


class _Step(Module):
    """A layer, which reads a cache in its own dtype, key head by key head, and leaves it as it is."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "1 T D"], state: MixerState | None) -> Float[Tensor, "1 T D"]:
        """The layer's output."""
        if not isinstance(state, KvState):
            output: Tensor = self.layer(x, state)
            return output
        mixer = self.layer.mixer
        assert isinstance(mixer, SoftmaxAttention), "the state is a cache"
        shape, start, num_slots = mixer.shape, state.length, state.keys.shape[2]
        packed = mixer.wqkv(self.layer.mixer_input(x))
        by_group = packed.view(1, 1, shape.num_kv_heads, shape.heads_per_group + 2, shape.head_dim)
        turned = mixer.normed(by_group[..., :-1, :])
        if mixer.rotary is not None:
            turned = rotate(turned, mixer.rotary.angles(start, start + 1, length=state.max_length, like=x))
        seen, means = min(start + 1, num_slots), []
        for group in range(shape.num_kv_heads):
            keys, values = (held[0, group, :seen].to(x.dtype) for held in state.tensors())
            keys[start % num_slots] = turned[0, 0, group, -1]
            values[start % num_slots] = by_group[0, 0, group, -1]
            scores = turned[0, 0, group, :-1] @ keys.T / math.sqrt(shape.head_dim)
            means.append(scores.softmax(dim=-1) @ values)
        return self.layer.after_mixer(x, mixer.wo(torch.cat(means).flatten()[None, None]))


@torch.no_grad()
def _first_input(model: LanguageModel, inputs: Inputs) -> Float[Tensor, "B T D"]:
    """What the first layer reads."""
    seen: list[Tensor] = []

    def look(_: Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0])
        raise _SeenError

    hook = model.mixer_layers()[0].layer.register_forward_pre_hook(look)
    try:
        model.hidden(inputs)
    except _SeenError:
        return seen[0]
    finally:
        hook.remove()
    raise AssertionError("a model calls its layers")
