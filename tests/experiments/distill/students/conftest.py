"""Golden teachers and the students that the public code made of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import ModelFolder
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.student import StudentConfig, build_student, own_tensors

GOLDEN = Path(__file__).parents[3] / "golden"

# the public code's folders of layers, and ours
STACKS = {"embedding.layers": "embedding_model.encoder", "llm.layers": "language_model.model.layers"}


@pytest.fixture(params=["hovle_pre", "hovle_post"])
def golden(request: pytest.FixtureRequest) -> Path:
    """Each folder of golden numbers in turn."""
    return GOLDEN / str(request.param)


@pytest.fixture
def teacher(golden: Path) -> LanguageModel:
    return ModelFolder(golden).load(device=torch.device("cpu"), dtype=torch.float64)


@pytest.fixture
def expected(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "expected.safetensors")


@pytest.fixture
def inputs(golden: Path, expected: dict[str, Tensor]) -> Inputs:
    """What the teacher was given: tokens, tiles and, for pixel shuffle `post`, the longer tokens."""
    return Inputs(
        tokens=expected["inputs.input_ids"],
        pixel_values=expected["inputs.pixel_values"],
        hd_tokens=expected["inputs.hd_input_ids"] if golden.name == "hovle_post" else None,
    )


@pytest.fixture
def mixer_tensors(golden: Path) -> Callable[[str, str], dict[str, Tensor]]:
    """(file, name of a layer) to the tensors of the public code's mixer there, under our names."""

    def read(file: str, layer: str) -> dict[str, Tensor]:
        stack, index = layer.rsplit(".", 1)
        prefix = f"{STACKS[stack]}.{index}.attention."
        stored = load_file(golden / f"{file}.safetensors")
        public = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
        vkq = torch.cat([public.pop(f"{part}_proj.weight") for part in "vkq"])
        return {"vkq_proj.weight": vkq, "A_log": public.pop("A_log_bias"), **public}

    return read


@pytest.fixture
def golden_student(
    teacher: LanguageModel, mixer_tensors: Callable[[str, str], dict[str, Tensor]]
) -> Callable[[str], LanguageModel]:
    """The public code's student in a file, linear in every layer."""

    def made(file: str) -> LanguageModel:
        student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
        tensors = {
            f"{layer.name}.mixer.{name}": tensor
            for layer in student.mixer_layers()
            for name, tensor in mixer_tensors(file, layer.name).items()
        }
        for name, tensor in own_tensors(student).items():
            tensor.copy_(tensors[name])
        return student

    return made
