"""An output head that a checkpoint holds beside the embedding is the model's, whatever config.json says of ties."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.core.models.checkpoint import ONE_FILE, write_checkpoint
from lab.core.models.decoder import Inputs
from lab.core.models.families import build_random
from lab.core.models.folder import ModelFolder
from lab.core.models.llama.config import LlamaConfig, write
from lab.core.models.spec import key_map
from lab.core.models.student_format import write_student
from lab.core.models.tensor_names import EMBEDDING, HEAD

CPU = torch.device("cpu")
TOKENS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture
def tensors(tiny_llama: Callable[..., LlamaConfig]) -> dict[str, Tensor]:
    """Of a model that ties nothing."""
    seed = torch.Generator().manual_seed(0)
    config = tiny_llama(tie_output=False)
    model = build_random(config, device=CPU, dtype=torch.float32, generator=seed, std=0.3)
    return key_map(model).to_public(model.state_dict())


@pytest.fixture
def checkpoint(tensors: dict[str, Tensor], tiny_llama: Callable[..., LlamaConfig], tmp_path: Path) -> ModelFolder:
    """With the model's head, and a config.json that says it is tied."""
    write_checkpoint(tmp_path / "tied", tensors, write(tiny_llama(tie_output=True)))
    return ModelFolder(tmp_path / "tied")


def test_another_head_than_the_embedding_is_read(
    checkpoint: ModelFolder, tensors: dict[str, Tensor], tiny_llama: Callable[..., LlamaConfig], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "untied", tensors, write(tiny_llama(tie_output=False)))
    untied = ModelFolder(tmp_path / "untied")
    assert checkpoint.architecture == untied.architecture
    ours, expected = (each.load(device=CPU, dtype=torch.float32) for each in (checkpoint, untied))
    assert ours(Inputs(tokens=TOKENS)).equal(expected(Inputs(tokens=TOKENS)))


def test_a_head_that_is_the_embedding_takes_no_memory_of_its_own(
    tensors: dict[str, Tensor], tiny_llama: Callable[..., LlamaConfig], tmp_path: Path
) -> None:
    same = tensors | {HEAD: tensors[EMBEDDING].clone()}
    config = tiny_llama(tie_output=True)
    write_checkpoint(tmp_path / "tied", same, write(config))
    folder = ModelFolder(tmp_path / "tied")
    assert folder.architecture == config
    model = folder.load(device=CPU, dtype=torch.float32)
    assert HEAD not in key_map(model).to_public(model.state_dict())


def test_a_student_keeps_the_head(checkpoint: ModelFolder, tmp_path: Path) -> None:
    teacher = checkpoint.load(device=CPU, dtype=torch.float32)
    write_student(tmp_path / "student", teacher, teacher=checkpoint)
    again = ModelFolder(tmp_path / "student").load(device=CPU, dtype=torch.float32)
    assert again(Inputs(tokens=TOKENS)).equal(teacher(Inputs(tokens=TOKENS)))


def test_weights_that_cannot_be_opened_are_refused_when_they_are_asked_for(checkpoint: ModelFolder) -> None:
    (checkpoint.path / ONE_FILE).write_bytes(b"{")
    assert isinstance(checkpoint.architecture, LlamaConfig)
