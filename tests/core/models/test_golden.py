"""The teacher gives the numbers of the public code, in float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from drawn import one_in
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import ModelFolder
from lab.core.models.hovle.model import Hovle
from lab.core.products.current import using
from lab.core.products.implementations import IMPLEMENTATIONS

TOLERANCE = 1e-12  # of the largest entry


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def test_logits(teacher: LanguageModel, inputs: Inputs, expected: dict[str, Tensor]) -> None:
    assert relative_error(teacher(inputs), expected["teacher_logits"]) < TOLERANCE


def test_hidden_states_of_the_holistic_embedding(teacher: Hovle, inputs: Inputs, expected: dict[str, Tensor]) -> None:
    outputs: list[Tensor] = []
    last = teacher.embedding.layers[len(teacher.embedding.layers) - 1]
    handle = last.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    teacher.embed(inputs)
    handle.remove()
    (found,) = outputs
    assert relative_error(found, expected["teacher_embedding_hidden"]) < TOLERANCE


def test_image_features(teacher: Hovle, inputs: Inputs, expected: dict[str, Tensor]) -> None:
    is_image = inputs.tokens == teacher.config.vision.image_token_id
    assert relative_error(teacher.embed(inputs)[is_image], expected["teacher_image_features"]) < TOLERANCE


def test_inputs_and_heads_of_every_mixer(teacher: LanguageModel, inputs: Inputs, expected: dict[str, Tensor]) -> None:
    seen: list[Tensor] = []
    for layer in teacher.mixer_layers():
        layer.layer.mixer.register_forward_pre_hook(lambda mixer, arguments: seen.append(arguments[0]))
    teacher(inputs)
    layers = teacher.mixer_layers()
    assert len(layers) == len(seen) == expected["seed.mse_per_layer"].shape[0]
    for layer, u in zip(layers, seen, strict=True):
        assert relative_error(u, expected[f"seed.layer{layer.index}.input"]) < TOLERANCE
        assert (
            relative_error(layer.layer.mixer.head_outputs(u), expected[f"seed.layer{layer.index}.teacher"]) < TOLERANCE
        )


@pytest.mark.parametrize(
    ("products", "dtype", "tolerance"),
    one_in(
        2,
        [(name, *lower) for name in IMPLEMENTATIONS for lower in ((torch.float32, 1e-5), (torch.bfloat16, 0.05))],
        of="lower precision",
    ),
)
def test_logits_in_lower_precision(
    golden: Path, inputs: Inputs, expected: dict[str, Tensor], dtype: torch.dtype, tolerance: float, products: str
) -> None:
    reason = IMPLEMENTATIONS[products].why_not(torch.device("cpu"), dtype)
    if reason is not None:
        pytest.skip(reason)
    with using(products):
        logits = ModelFolder(golden).load(device=torch.device("cpu"), dtype=dtype)(inputs)
    assert logits.dtype == dtype
    assert relative_error(logits.double(), expected["teacher_logits"]) < tolerance


def test_teachers_are_frozen_and_in_evaluation_mode(teacher: LanguageModel) -> None:
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_layers_are_counted_through_the_embedding_first(teacher: LanguageModel, golden: Path) -> None:
    layers = teacher.mixer_layers()
    num_embedding = {"hovle_pre": 1, "hovle_post": 2}[golden.name]
    assert [layer.index for layer in layers] == list(range(num_embedding + 3))
    names = [f"embedding.layers.{i}" for i in range(num_embedding)] + [f"llm.layers.{i}" for i in range(3)]
    assert [layer.name for layer in layers] == names
    assert all(teacher.get_submodule(layer.name) is layer.layer for layer in layers)
