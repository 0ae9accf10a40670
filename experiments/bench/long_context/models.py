"""Teacher, hybrid and linear student over one set of weights, and their states over one cache: what memory can hold.

A student's projections share memory with the teacher's. Its steps take as long as those of a
distilled student, which has as many weights; its answers mean nothing. Random numbers are a block that is repeated:
drawing as many as a cache of 100,000 tokens has would take minutes.
"""

# Letters: V vocabulary, D model width.

from collections.abc import Collection, Mapping
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.core.mixers.base import MixerState
from lab.core.mixers.mamba2 import Mamba2Options
from lab.core.mixers.softmax import KvState
from lab.core.mixers.spec import mixer_like
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import Decoder, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.spec import build
from lab.core.runs.random_streams import Seeds

# mmMamba's hybrid keeps the layers 0, 4, ..., 28 of 32
_ATTENTION_EVERY = 4
_WEIGHT_STD = 0.02
# so that some tokens are attended to more than others, and a wrong one would be seen
_KEY_STD = 3.0
# a prime, so that no two rows of a weight or a cache are equal
_BLOCK = 1_048_573
# of a student's projections, the teacher's with as many rows
_SAME_ROWS = {"vkq_proj.": "wqkv.", "o_proj.": "wo."}


class Kind(StrEnum):
    """Which layers a model has."""

    teacher = "teacher"
    hybrid = "hybrid"
    linear = "linear"

    def keeps_attention(self, layer: int) -> bool:
        """Whether a layer is softmax attention: of the hybrid's, the first of every four."""
        return self is Kind.teacher or (self is Kind.hybrid and layer % _ATTENTION_EVERY == 0)


Models = Mapping[Kind, LanguageModel]
States = Mapping[Kind, DecodingState]


class Fill:
    """Fills tensors with normal numbers."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._block = torch.empty(_BLOCK, dtype=dtype).normal_(generator=Seeds(0).torch("long context"))

    def __call__(self, tensor: Tensor, std: float) -> None:
        """N(0, std^2), in place."""
        scaled = self._block[: tensor.numel()] * std
        for part in torch.split(tensor.view(-1), _BLOCK):
            part.copy_(scaled[: len(part)])

    def parameter(self, name: str, shape: torch.Size, dtype: torch.dtype) -> nn.Parameter:
        """A weight: of norms one, of biases zero, of all others N(0, 0.02^2)."""
        weight = torch.empty(shape, dtype=dtype)
        if name.endswith("norm.weight"):
            weight.fill_(1.0)
        elif name.endswith("bias"):
            weight.zero_()
        else:
            self(weight, _WEIGHT_STD)
        return nn.Parameter(weight, requires_grad=False)


def random_models(
    config: ModelConfig, dtype: torch.dtype, kinds: Collection[Kind] = tuple(Kind), *, is_lean: bool = False
) -> Models:
    """Models of an architecture with random weights.

    Args:
        config: the architecture.
        dtype: of weights.
        kinds: which models.
        is_lean: whether the table of embeddings lies where the output head does; a step reads one row of it.
    """
    fill = Fill(dtype)
    teacher = build(config, dtype=dtype)
    share_tables(teacher)
    for name, parameter in list(teacher.named_parameters()):
        _replace(teacher, name, fill.parameter(name, parameter.shape, dtype))
    head, table = head_of(last_decoder(teacher)), teacher.input_embedding
    if is_lean and head.shape == table.weight.shape and head is not table.weight:
        # another parameter in the same memory: it counts as one more
        table.weight = nn.Parameter(head.detach(), requires_grad=False)
    share_tables(teacher)
    return models_of(teacher, kinds)


def share_tables(model: LanguageModel) -> None:
    """One table of embeddings: that of a language model behind another stack is never read, unless it is the head."""
    decoder = last_decoder(model)
    if decoder.output is not None:
        decoder.tokens.weight = model.input_embedding.weight


def models_of(teacher: LanguageModel, kinds: Collection[Kind] = tuple(Kind)) -> Models:
    """A teacher and its students, or some of them."""
    dtype = teacher.dtype
    fill = Fill(dtype)
    weights = dict(teacher.named_parameters(remove_duplicate=False))
    models = {Kind.teacher: teacher}
    for kind in (Kind.hybrid, Kind.linear):
        student = models[kind] = build(teacher.config, dtype=dtype)
        for layer in student.mixer_layers():
            if not kind.keeps_attention(layer.index):
                layer.layer.mixer = mixer_like(layer.layer.mixer, Mamba2Options())
        for name, parameter in list(student.named_parameters(remove_duplicate=False)):
            if kind in kinds and name not in weights:
                source = _source(name)
                weights[name] = weights[source] if source else fill.parameter(name, parameter.shape, parameter.dtype)
            if name in weights:
                _replace(student, name, weights[name])
    chosen = {kind: models[kind].requires_grad_(False).eval() for kind in Kind if kind in kinds}
    for model in chosen.values():
        model.choose_backends()
    return chosen


def states_of(models: Models, num_tokens: int) -> States:
    """States that have seen so many tokens and have room for one more: random numbers, for no prompt was read.

    Layers of attention in the same place have one cache.
    """
    fill = Fill(next(iter(models.values())).dtype)
    caches: dict[int, KvState] = {}
    states = {}
    for kind, model in models.items():
        layers: list[MixerState] = []
        for layer in model.mixer_layers():
            cache = caches.get(layer.index)
            if cache is not None and kind.keeps_attention(layer.index):
                state: MixerState = KvState(keys=cache.keys, values=cache.values, max_length=cache.max_length)
            else:
                state = layer.layer.mixer.allocate_state(1, max_length=num_tokens + 1)
                for tensor, std in zip(state.tensors(), (_KEY_STD, 1.0), strict=True):
                    fill(tensor, std)
                if isinstance(state, KvState):
                    caches[layer.index] = state
            state.length = num_tokens
            layers.append(state)
        states[kind] = DecodingState(tuple(layers))
    return states


def weight_tensors(model: LanguageModel) -> list[Tensor]:
    """The weights that a step reads, each once: all but tables of embeddings that are no output head, and tiles'."""
    decoder = last_decoder(model)
    read = [*(parameter for layer in model.mixer_layers() for parameter in layer.layer.parameters())]
    return [*read, decoder.norm.weight, head_of(decoder)]


def last_decoder(model: LanguageModel) -> Decoder:
    """The stack with the output head."""
    return next(module for module in model.modules() if isinstance(module, Decoder))


def head_of(decoder: Decoder) -> Float[Tensor, "V D"]:
    """The weight of the output head."""
    return decoder.tokens.weight if decoder.output is None else decoder.output.weight


def _source(name: str) -> str | None:
    """The weight of the teacher that serves as this one of a student; None for a new one."""
    for ours, theirs in _SAME_ROWS.items():
        if ours in name:
            return name.replace(ours, theirs)
    return None


def _replace(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, parameter)
