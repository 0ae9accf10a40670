"""Seeded and trained students give the numbers of the public code, in float64."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import log_softmax

from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import ModelFolder
from lab.core.models.student_format import write_student
from lab.experiments.distill.student import keep_softmax

TOLERANCE = 1e-12  # of the largest entry; 8e-15 was measured

Students = Callable[[str], LanguageModel]


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture
def hybrid_layers(golden: Path) -> list[int]:
    layers: list[int] = json.loads((golden / "meta.json").read_text())["hybrid_softmax_layers"]
    return layers


@pytest.mark.parametrize("file", ["seed", "moved"])
def test_heads_of_every_layer_on_the_inputs_of_the_teacher(
    golden_student: Students, expected: dict[str, Tensor], file: str
) -> None:
    for layer in golden_student(f"student_{file}").mixer_layers():
        u = expected[f"seed.layer{layer.index}.input"]
        found = layer.layer.mixer.head_outputs(u)
        assert relative_error(found, expected[f"{file}.layer{layer.index}.student"]) < TOLERANCE


def test_the_error_of_every_layer_at_the_seed(
    golden_student: Students, teacher: LanguageModel, expected: dict[str, Tensor]
) -> None:
    errors = []
    for ours, theirs in zip(golden_student("student_seed").mixer_layers(), teacher.mixer_layers(), strict=True):
        u = expected[f"seed.layer{ours.index}.input"]
        errors.append((ours.layer.mixer.head_outputs(u) - theirs.layer.mixer.head_outputs(u)).square().mean())
    found = torch.stack(errors)
    assert relative_error(found, expected["seed.mse_per_layer"]) < TOLERANCE
    # the objective of stages 1 and 2
    assert relative_error(1000 * found.mean(), 1000 * expected["seed.mse_per_layer"].mean()) < TOLERANCE


def test_logits_of_the_linear_student(golden_student: Students, inputs: Inputs, expected: dict[str, Tensor]) -> None:
    logits = golden_student("student_moved")(inputs)
    assert relative_error(logits, expected["moved_linear_logits"]) < TOLERANCE


def test_divergence_of_the_linear_student_from_its_teacher(
    golden_student: Students, teacher: LanguageModel, inputs: Inputs, expected: dict[str, Tensor]
) -> None:
    theirs = log_softmax(teacher(inputs), dim=-1)
    ours = log_softmax(golden_student("student_moved")(inputs), dim=-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(dim=-1).flatten()
    assert relative_error(divergence, expected["kl_teacher_student_per_token"]) < TOLERANCE


def test_logits_of_the_hybrid_student(
    golden_student: Students,
    teacher: LanguageModel,
    hybrid_layers: list[int],
    inputs: Inputs,
    expected: dict[str, Tensor],
) -> None:
    student = golden_student("student_moved")
    keep_softmax(student, teacher, hybrid_layers)
    assert relative_error(student(inputs), expected["moved_hybrid_logits"]) < TOLERANCE


def test_the_hybrid_student_is_written_as_the_public_layout_has_it(
    golden_student: Students, teacher: LanguageModel, hybrid_layers: list[int], golden: Path, tmp_path: Path
) -> None:
    student = golden_student("student_moved")
    keep_softmax(student, teacher, hybrid_layers)
    write_student(tmp_path / "out", student, teacher=ModelFolder(golden))
    released = load_file(golden / "student_hybrid_released.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == released.keys()
    # the golden file has 32 bits
    assert all(written[name].equal(tensor.double()) for name, tensor in released.items())
    softmax = [name for name in written if name.endswith(("wqkv.weight", "wo.weight"))]
    assert len(softmax) == 2 * len(hybrid_layers)
    untouched = load_file(golden / "model.safetensors")
    assert all(written[name].equal(untouched[name].double()) for name in softmax)


@pytest.mark.parametrize("is_hybrid", [False, True])
def test_a_student_that_goes_out_and_in_again_is_the_same(
    golden_student: Students,
    teacher: LanguageModel,
    hybrid_layers: list[int],
    inputs: Inputs,
    golden: Path,
    tmp_path: Path,
    is_hybrid: bool,
) -> None:
    student = golden_student("student_moved")
    if is_hybrid:
        keep_softmax(student, teacher, hybrid_layers)
    write_student(tmp_path / "out", student, teacher=ModelFolder(golden))
    again = ModelFolder(tmp_path / "out").load(device=torch.device("cpu"), dtype=torch.float64)
    before, after = student.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert {"llm.layers.0.mixer.A_log", "llm.layers.0.mixer.dt_bias"} <= before.keys()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert again(inputs).equal(student(inputs))
