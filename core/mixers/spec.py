"""The registry of mixers that can replace attention: each mixer's file defines one `MixerSpec`.

`mixers()` finds every file in this folder that defines `SPEC`. To add a mixer, add such a file, and a YAML file in
conf/student/mixer that names the schema of its options.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lab.core.errors import ConfigError
from lab.core.mixers.base import AttentionTraits, Mixer, MixerShape
from lab.core.mixers.initialisation import Initialisation
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.stock_block import StockBlock
from lab.core.mixers.tensor_rules import TensorRule, renamed
from lab.core.specs import specs_in

Build = Callable[[MixerShape, MixerOptions, AttentionTraits], Mixer]
InitialWeights = Callable[
    [Mapping[str, Tensor], MixerShape, MixerOptions, Initialisation, torch.Generator], dict[str, Tensor]
]
TensorRules = Callable[[Mixer, str, str], list[TensorRule]]


def own_names(mixer: Mixer, public: str, ours: str) -> list[TensorRule]:
    """The layout of a mixer without a public release: its parameters under their own names."""
    return renamed(public, ours, {name: name for name, _ in mixer.named_parameters()})


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerSpec:
    """A mixer that can replace softmax attention.

    Attributes:
        kind: its name in configurations and tables, and in `layers_block_type` of exported folders.
        options: the schema of `student/mixer=<kind>`.
        build: given a shape, options and the traits of the replaced attention, returns the mixer, uninitialised.
        initial_weights: maps the state_dict of a `SoftmaxAttention` to the mixer's, without the output projection,
            which is always the attention's; no tensor shares memory with the attention's.
        new: parameters without a counterpart in attention; trained from stage 1 on.
        inherited: parameters initialised from the attention's; trained from stage 2 on.
        decay: those of `new` that control how fast the state forgets; frozen in stage 3.
        takes: the traits of an attention (`AttentionTraits.names`) that the mixer supports; others are refused.
        tensor_rules: how its tensors are stored in an exported folder: (mixer, public prefix, our prefix) to rules.
        in_mmmamba: whether the mixer with default options is the layer of mmMamba's released folders.
        stock: the layer of transformers that can compute what the mixer does; None if there is none.
    """

    kind: str
    options: type[MixerOptions]
    build: Build
    initial_weights: InitialWeights
    new: frozenset[str]
    inherited: frozenset[str]
    decay: frozenset[str]
    takes: frozenset[str]
    tensor_rules: TensorRules = own_names
    in_mmmamba: bool = False
    stock: StockBlock | None = None

    def refuse_what_it_does_not_take(self, traits: AttentionTraits, *, where: str) -> None:
        """Refuse an attention with an unsupported trait.

        Raises:
            ConfigError: naming the layer and the trait.
        """
        for name in sorted(traits.names() - self.takes):
            able = [spec.kind for spec in mixers().values() if name in spec.takes]
            fix = f"choose student/mixer={' or '.join(able)}" if able else "choose another teacher"
            raise ConfigError(f"{where} has {traits.words(name)}, which student/mixer={self.kind} would drop; {fix}")


@cache
def mixers() -> dict[str, MixerSpec]:
    """Every mixer that can replace attention, by kind."""
    return specs_in(["lab.core.mixers"], "SPEC", MixerSpec, key="kind")


def mixer_spec(kind: str) -> MixerSpec:
    """The mixer of this kind.

    Raises:
        ConfigError: if there is none.
    """
    if kind not in mixers():
        raise ConfigError(f"student.mixer.kind={kind}: choose student/mixer={' or '.join(sorted(mixers()))}")
    return mixers()[kind]


def mixer_like(attention: Mixer, options: MixerOptions, *, where: str = "the attention") -> Mixer:
    """A replacement for an attention: same shape and dtype, on the meta device (no weights allocated).

    Args:
        attention: softmax attention.
        options: of the mixer.
        where: the attention's name in errors.

    Raises:
        ConfigError: if the options need a feature that the attention lacks, or the mixer lacks one that it has.
    """
    spec = mixer_spec(options.kind)
    spec.refuse_what_it_does_not_take(attention.traits, where=where)
    with torch.device("meta"):
        mixer = spec.build(attention.shape, options, attention.traits)
    return mixer.to(next(attention.parameters()).dtype)
