"""Problems of `lab bench decode`: whole models with random weights, and a model of transformers with the same ones."""

# Letters: B batch, T tokens, V vocabulary.

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.mixers.rotary import RotaryConfig
from lab.core.mixers.softmax import KvState
from lab.core.mixers.spec import mixer_like, mixers
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import Inputs, draw_weights
from lab.core.models.decoding_state import DecodingState
from lab.core.models.spec import families
from lab.core.models.steps import Steps
from lab.core.models.text_model import TextModel
from lab.core.products import current
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.accuracy import largest_difference
from lab.experiments.bench.machine import load_optional
from lab.experiments.bench.rates import Work

# what transformers has too
_FAMILY = families()["llama"]
_WEIGHT_STD = 0.02
# of the largest score: rounding in float32 over all layers
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSetting:
    """A model and its batch.

    Attributes:
        shape: of the model, for tables.
        sizes: of its layers, by the keys of the architecture.
        attention_every: of so many layers one keeps softmax attention and the others are Mamba-2; None: none keeps it.
        num_rows: B, sequences that are decoded together.
        prompt_tokens: T, read before the first step.
        new_tokens: of an answer.
    """

    shape: str
    sizes: dict[str, Any]
    attention_every: int | None
    num_rows: int
    prompt_tokens: int = 64
    new_tokens: int = 128

    @property
    def kind(self) -> str:
        """Which layers it has, in a word."""
        return {1: "teacher", None: "linear"}.get(self.attention_every, "hybrid")

    @property
    def rows(self) -> str:
        """B, in words."""
        return f"{self.num_rows} row{'s' * (self.num_rows > 1)}"


class DecodeProblem:
    """A model whose state has read a prompt, and the scores of the next token.

    Attributes:
        setting: as given.
        model: with random weights.
        prompt: that was read.
    """

    def __init__(self, setting: DecodeSetting) -> None:
        self.setting = setting
        rotary = RotaryConfig(theta=1e5, max_length=setting.prompt_tokens + setting.new_tokens)
        self.model = TextModel(DecoderConfig(**setting.sizes, rms_norm_eps=1e-5, rotary=rotary)).eval()
        for layer in self.model.mixer_layers():
            if setting.attention_every is None or layer.index % setting.attention_every:
                options = mixers()["mamba2"].options()
                layer.layer.mixer = mixer_like(layer.layer.mixer, options, where="").to_empty(device="cpu")
        seeds = Seeds(0)
        draw_weights(self.model, generator=seeds.torch("decode/weights"), std=_WEIGHT_STD)
        self.model.requires_grad_(False)
        self.model.choose_backends()
        shape = (setting.num_rows, setting.prompt_tokens)
        generator = seeds.torch("decode/prompt")
        self.prompt = torch.randint(0, self.model.config.vocab_size, shape, generator=generator)
        self._token = self.prompt[:, :1].clone()

    def step(self, *, is_compiled: bool) -> Callable[[], Float[Tensor, "B V"]]:
        """The scores of a token after the prompt; every call takes the same step, as far as states can be put back.

        A recurrent state goes on from call to call, which takes the same time.
        """
        steps = self._steps(self.model, is_compiled=is_compiled)
        steps.logits(Inputs(tokens=self.prompt))
        lengths = [state.length for state in steps.state.layers]

        def run() -> Float[Tensor, "B V"]:
            for state, length in zip(steps.state.layers, lengths, strict=True):
                state.length = length
            return steps.logits(Inputs(tokens=self._token))

        return run

    def answer(self, *, is_compiled: bool) -> Int[Tensor, "B new"]:
        """The likeliest tokens after the prompt, one after the other; reads the prompt first."""
        steps = self._steps(self.model, is_compiled=is_compiled)
        tokens = [steps.logits(Inputs(tokens=self.prompt)).argmax(-1, keepdim=True)]
        for _ in range(self.setting.new_tokens - 1):
            tokens.append(steps.logits(Inputs(tokens=tokens[-1])).argmax(-1, keepdim=True))
        return torch.cat(tokens, dim=1)

    def how(self) -> str:
        """What computes the steps, in words."""
        return self._steps(self.model, is_compiled=True).how

    def difference(self, scores: Float[Tensor, "B V"]) -> float:
        """Largest difference of the scores of one token from the exact ones, of the largest score."""
        return largest_difference([scores], [self._exact])

    @cached_property
    def _exact(self) -> Float[Tensor, "B V"]:
        wide = copy.deepcopy(self.model).double()
        steps = self._steps(wide, is_compiled=False)
        steps.logits(Inputs(tokens=self.prompt))
        return steps.logits(Inputs(tokens=self._token))

    def _steps(self, model: TextModel, *, is_compiled: bool) -> Steps:
        room = self.setting.prompt_tokens + self.setting.new_tokens
        state = model.allocate_state(self.setting.num_rows, max_length=room)
        if is_compiled:
            return Steps(model, state)
        with current.using("torch"):
            return Steps(model, state)

    @cached_property
    def work(self) -> Work:
        """What a step must at least move: weights and keys and values are read, states of a recurrence are updated."""
        config = self.model.config
        num_bytes = sum(parameter.nbytes for parameter in self.model.parameters())
        if not config.tie_output:
            # a row of the table for each sequence
            num_bytes -= self.model.input_embedding.weight.nbytes
        state = self.model.allocate_state(self.setting.num_rows, max_length=self.setting.prompt_tokens)
        return Work(
            read_bytes=num_bytes + _bytes(state, is_cache=True), updated_bytes=2 * _bytes(state, is_cache=False)
        )


def _bytes(state: DecodingState, *, is_cache: bool) -> int:
    return sum(layer.num_bytes for layer in state.layers if isinstance(layer, KvState) is is_cache)


def transformers_model(problem: DecodeProblem) -> Any | None:
    """The same model of transformers with the same weights; None without transformers, or if it has no such layers."""
    transformers = load_optional("transformers")
    if transformers is None or problem.setting.kind != "teacher":
        return None
    content = _FAMILY.write(problem.model.config)
    config = transformers.AutoConfig.for_model(**content)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tensors = _FAMILY.names(problem.model).to_public(problem.model.state_dict())
    # a tied head is the table of embeddings
    model.load_state_dict(tensors, strict=not problem.model.config.tie_output)
    return model
