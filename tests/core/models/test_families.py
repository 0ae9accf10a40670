"""A configuration names its teacher, and one that is not what it should be is refused."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module

from lab.core.errors import CheckpointError, ConfigError
from lab.core.hydra_schema import to_typed
from lab.core.mixers.rotary import RotaryKind
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.families import Teacher, TeacherConfig, register
from lab.core.models.folder import ModelFolder, Precision
from lab.core.models.hovle.config import HovleConfig

CPU = torch.device("cpu")


def found(config: TeacherConfig) -> LanguageModel:
    path = None if config.path is None else Path(config.path)
    return Teacher(config, path, device=CPU, generator=torch.Generator().manual_seed(0)).model


def hovle_of(folder: Path) -> HovleConfig:
    config = ModelFolder(folder).architecture
    assert isinstance(config, HovleConfig)
    return config


def test_the_released_teacher_composes_and_is_overridden_by_key() -> None:
    register()
    overrides = ["teacher.path=/models/HoVLE", "teacher.precision=float32", "teacher.hovle.llm.rotary.factor=3"]
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = to_typed(compose("teacher/hovle_2p6b", overrides=overrides).teacher, TeacherConfig)
    assert (config.path, config.precision.dtype) == ("/models/HoVLE", torch.float32)
    assert config.hovle is not None
    assert config.hovle.llm.rotary.kind is RotaryKind.dynamic
    assert config.hovle.llm.rotary.factor == 3.0


@pytest.mark.parametrize("precision", Precision)
def test_a_path_and_its_architecture(golden: Path, precision: Precision) -> None:
    config = TeacherConfig(path=str(golden), precision=precision, hovle=hovle_of(golden))
    teacher = found(config)
    assert {parameter.dtype for parameter in teacher.parameters()} == {precision.dtype}
    plain = ModelFolder(golden).load(device=CPU, dtype=precision.dtype).state_dict()
    assert all(plain[name].equal(tensor) for name, tensor in teacher.state_dict().items())


def test_a_path_alone_takes_the_architecture_from_the_file(golden: Path) -> None:
    assert len(found(TeacherConfig(path=str(golden))).mixer_layers()) == len(load_layers(golden))


def load_layers(folder: Path) -> range:
    config = hovle_of(folder)
    return range(config.embedding.num_layers + config.llm.num_layers)


def test_another_architecture_than_the_file_describes_is_refused(golden: Path) -> None:
    wanted = hovle_of(golden)
    wanted.llm.rotary.theta = 5.0
    with pytest.raises(ConfigError, match=r"teacher\.hovle\.llm\.rotary\.theta=5\.0 but .*config\.json says 10000\.0"):
        found(TeacherConfig(path=str(golden), hovle=wanted))


def test_random_weights_of_an_architecture(golden: Path) -> None:
    teacher = found(TeacherConfig(precision=Precision.float32, hovle=hovle_of(golden)))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher(Inputs(tokens=torch.tensor([[1, 2, 3]]))).isfinite().all()


def test_neither_a_path_nor_an_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.path is null; give the folder of a checkpoint"):
        TeacherConfig()


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        found(TeacherConfig(path=str(tmp_path / "nowhere")))


def test_an_error_in_the_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 0}')
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: max_position_embeddings=0 must be a whole number"):
        _ = ModelFolder(tmp_path).architecture


def test_a_gguf_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.gguf is missing; give a GGUF file"):
        ModelFolder(tmp_path / "model.gguf").load(device=CPU, dtype=torch.float32)
