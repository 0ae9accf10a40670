"""The stock folder of a student: which architecture, its config.json, and where its tensors are.

config.json holds, under the key `lab`, what a folder of ours says of a student; other programs ignore it. The rest of
it is what transformers reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.decoder import LanguageModel
from lab.core.models.hf_config import Json
from lab.core.models.spec import family_of
from lab.core.models.stock_vision import StockVision
from lab.core.models.student_format import student_json
from lab.core.models.tensor_names import DERIVED, KeyMap
from lab.core.stock.architecture import StockArchitecture
from lab.core.stock.falcon_h1 import FALCON_H1
from lab.core.stock.granitemoehybrid import GRANITEMOEHYBRID
from lab.core.stock.qwen3_next import QWEN3_NEXT
from lab.core.stock.stack import Stack

# in the order of preference: the first is what most servers know
ARCHITECTURES = (GRANITEMOEHYBRID, FALCON_H1, QWEN3_NEXT)
# key of config.json: what a folder in our own layout says of the student
STUDENT = "lab"
# beside the weights: norms whose last bit a stock folder rounds. Servers read every file that ends as weights do.
EXACT = "exact_norms.lab"
# transformers from 5.13 on writes other names for kinds of layers
_LAYER_TYPES = {"mamba": "linear_attention", "attention": "full_attention"}


@dataclass(frozen=True, slots=True)
class StockLayout:
    """How a student is written.

    Attributes:
        architecture: of its language model.
        stack: the student.
        vision: what stands in front of the language model; None for text only.
    """

    architecture: StockArchitecture
    stack: Stack
    vision: StockVision | None

    @property
    def name(self) -> str:
        """The architecture in words, such as `llava around granitemoehybrid`."""
        name = self.architecture.model_type
        return name if self.vision is None else f"{self.vision.model_type} around {name}"

    def keys(self) -> KeyMap:
        """Where the tensors are."""
        prefix = "" if self.vision is None else "language_model."
        rules = [*self.architecture.rules(self.stack, prefix), *(() if self.vision is None else self.vision.rules)]
        tied = ("lm_head.weight",) if self.stack.config.tie_output else ()
        return KeyMap(tuple(rules), ignored=(*DERIVED, *tied))

    def config(self, dtype: torch.dtype, ids: Mapping[str, Any]) -> dict[str, Any]:
        """config.json.

        Args:
            dtype: of the weights.
            ids: special tokens by key, such as `eos_token_id`.
        """
        student = self.stack.model
        common = {"torch_dtype": str(dtype).removeprefix("torch."), **ids}
        text = {
            "model_type": self.architecture.model_type,
            "architectures": [self.architecture.model_class],
            "vocab_size": self.stack.config.vocab_size,
            "tie_word_embeddings": self.stack.config.tie_output,
            "hidden_act": "silu",
            **self.architecture.config(self.stack),
            **common,
        }
        ours = {STUDENT: student_json(family_of(student.config).config_json(student.config), student)}
        if self.vision is None:
            return {**text, **ours}
        return {
            "model_type": self.vision.model_type,
            "architectures": [self.vision.model_class],
            "tie_word_embeddings": self.stack.config.tie_output,
            **self.vision.config,
            "text_config": text,
            **common,
            **ours,
        }

    def rounded(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors that would not come back bit for bit."""
        ends = self.architecture.rounded
        names = {name: tensor for name, tensor in state.items() if ends and name.endswith(ends)}
        held = self.held(state) if names else {}
        return {name: tensor for name, tensor in names.items() if not held[name].equal(tensor)}

    def held(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a folder gives back for a student's tensors: zeros for what nothing reads."""
        keys = self.keys()
        public = keys.to_public(state)
        return keys.to_ours(lambda name: public[name])


def choose(student: LanguageModel) -> StockLayout:
    """The first architecture that holds a student.

    Raises:
        ConfigError: saying for each why it does not, by key and value, and what would do.
    """
    vision = _vision(student)
    stack = Stack(student)
    refusals = {}
    for architecture in ARCHITECTURES:
        obstacles = list(architecture.obstacles(stack))
        if not obstacles:
            return StockLayout(architecture, stack, vision)
        refusals[architecture.model_type] = obstacles
    # layouts for another mixer all give the same reason: it is left out
    near = {name: found for name, found in refusals.items() if not found[0].startswith("student.mixer.kind=")}
    reasons: dict[str, list[str]] = {}
    for name, found in (near or refusals).items():
        reasons.setdefault(", and ".join(found), []).append(name)
    words = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    raise ConfigError(f"no stock architecture holds this student ({words}); or use --format mmmamba")


def layout_in(content: Json, student: LanguageModel) -> StockLayout:
    """The layout of a stock folder whose config.json is known.

    Raises:
        CheckpointError: if a key that the mathematics depends on is not what the student's would be.
        ConfigError: if it names another architecture.
    """
    text = content.get("text_config", content)
    model_type = text.get("model_type") if isinstance(text, dict) else None
    found = next((each for each in ARCHITECTURES if each.model_type == model_type), None)
    if found is None or not isinstance(text, dict):
        known = ", ".join(each.model_type for each in ARCHITECTURES)
        raise ConfigError(f"model_type={model_type} is not implemented for stock students, only {known}")
    layout = StockLayout(found, Stack(student), _vision(student) if text is not content else None)
    for key, expected in found.config(layout.stack).items():
        if key in text and _plain(text[key]) != _plain(expected):
            raise CheckpointError(
                f"config.json: {key}={text[key]} but the student under its key {STUDENT} makes it {expected}; export "
                "it again"
            )
    return layout


def read_exact(path: Path, model: LanguageModel) -> None:
    """Give a model that was read from a stock folder the norms that the folder's weights hold rounded.

    Raises:
        CheckpointError: if the file is damaged, or does not belong to the model.
    """
    state = model.state_dict()
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); export the student again") from error
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name not in state or state[name].shape != tensor.shape:
                raise CheckpointError(f"{path} holds {name}, which the student does not have; export it again")
            state[name].copy_(tensor)


def _vision(student: LanguageModel) -> StockVision | None:
    if student.config.vision is None:
        return None
    family = family_of(student.config)
    if family.stock_vision is None:
        raise ConfigError(f"no stock architecture reads images as {family.name} does; use --format mmmamba")
    return family.stock_vision(student)


def _plain(value: object) -> object:
    """A value as it is compared: transformers adds keys to rotary parameters and renames layers."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_LAYER_TYPES.get(item, item) if isinstance(item, str) else item for item in value]
    return value
