"""A teacher of four layers with random weights, and runs of a few steps on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from lab.core.hydra_schema import to_typed
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.hovle.model import Hovle
from lab.core.train.state import checkpoints
from lab.experiments.distill.config import DistillConfig, register
from lab.experiments.distill.job import execute
from lab.experiments.distill.tasks.picture_questions import picture_questions_tokenizer
from lab.experiments.distill.teacher import new_teacher, write_teacher
from reference.parquet import read_table

# keys that make a run take seconds; every stage of it is there
SMALL = (
    "teacher.hovle=null",
    *(f"stage_{stage}.{key}" for stage in (1, 2, 3, "teacher") for key in ("steps=4", "batch_size=2", "log_every=1")),
    *(f"stage_{stage}.{key}" for stage in (1, 2, 3, "teacher") for key in ("evaluate_every=2", "checkpoint_every=3")),
    "evaluation.num_batches=1",
    "evaluation.num_validation_batches=1",
    "evaluation.batch_size=4",
    "data.picture_questions.num_questions=2",
    "threads=1",
    "figures=[]",
)


def architecture(*, num_embedding: int = 2, num_llm: int = 2, shuffle: str = "pre") -> HovleConfig:
    """A HoVLE of the smallest size that has everything: groups of heads, two stacks."""
    vision = VisionConfig(
        image_size=28,
        patch_size=7,
        num_channels=3,
        shuffle_factor=2,
        pixel_shuffle=PixelShuffle(shuffle),
        image_token_id=4,
    )

    def stack(num_layers: int) -> DecoderConfig:
        return DecoderConfig(
            num_layers=num_layers,
            hidden_size=16,
            intermediate_size=32,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            vocab_size=len(picture_questions_tokenizer("")),
            rms_norm_eps=1e-5,
            rotary=RotaryConfig(theta=1e4, max_length=1024),
        )

    return HovleConfig(vision=vision, embedding=stack(num_embedding), llm=stack(num_llm))


@pytest.fixture(scope="session")
def make_teacher() -> Callable[..., Hovle]:
    """Frozen teachers with random weights in float64, where differences are rounding alone."""

    def make(**sizes: Any) -> Hovle:
        tokenizer = picture_questions_tokenizer("")
        model = new_teacher(architecture(**sizes), tokenizer, device=torch.device("cpu"), seed=0)
        assert isinstance(model, Hovle)
        return model.double().requires_grad_(False).eval()

    return make


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of such a teacher."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    tokenizer = picture_questions_tokenizer("")
    model = new_teacher(architecture(), tokenizer, device=torch.device("cpu"), seed=0)
    write_teacher(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def small_arguments(teacher_folder: Path) -> list[str]:
    """What is typed for a run of seconds."""
    return [f"teacher.path={teacher_folder}", *SMALL]


@pytest.fixture(scope="session")
def small_config(small_arguments: list[str]) -> Callable[..., DistillConfig]:
    """The configuration of a run of seconds, and what is typed beside."""

    def composed(*overrides: str) -> DistillConfig:
        register()
        with initialize_config_module("lab.conf", version_base="1.3"):
            return to_typed(compose("distill", overrides=[*small_arguments, *overrides]), DistillConfig)

    return composed


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs of seconds in this process, in the output folder of the test."""

    root: Path
    arguments: list[str]

    def composed(self, *overrides: str) -> DictConfig:
        """What Hydra makes of a command line."""
        register()
        with initialize_config_module("lab.conf", version_base="1.3"):
            return compose("distill", overrides=[*self.arguments, *overrides])

    def folder(self, name: str) -> Path:
        """The directory of a run."""
        return self.root / "distill" / "runs" / name

    def run(self, name: str, *overrides: str) -> Path:
        """Run or continue; where it is."""
        execute(self.composed(*overrides), self.folder(name), list(overrides))
        return self.folder(name)

    def weights(self, name: str, stage: int) -> dict[str, Tensor]:
        """What the end of a stage left."""
        (node,) = self.folder(name).glob(f"checkpoints/stage_{stage}-*")
        return load_file(checkpoints(node)[-1] / "model.safetensors")

    def table(self, name: str) -> list[dict[str, Any]]:
        """The table of a finished run."""
        return read_table(self.folder(name) / "table.parquet")


@pytest.fixture
def runner(outputs: Path, small_arguments: list[str]) -> Runner:
    """Runs in this test's output folder."""
    return Runner(outputs, list(small_arguments))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, small_arguments: list[str]) -> Runner:
    """A finished run `all` of all stages, not to be changed."""
    runner = Runner(tmp_path_factory.mktemp("whole"), list(small_arguments))
    runner.run("all", "stage=all", "figures=[layer_error,loss,accuracy,trade_off]")
    return runner
