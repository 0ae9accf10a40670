"""What all tests share: one BLAS thread, reproducible properties, an output folder, the command, a small teacher."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

# before numpy or torch is imported: with more threads a busy machine is many times slower
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

# a red build can be repeated; a shared machine makes single examples slow
hypothesis.settings.register_profile("lab", derandomize=True, deadline=None)
hypothesis.settings.load_profile("lab")

COMMAND = (sys.executable, "-c", "from lab.cli.main import main; main()")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of commands in this test; not made yet."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("LAB_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def lab_command() -> tuple[str, ...]:
    """The words in front of the arguments, for a test that starts the process itself."""
    return COMMAND


@pytest.fixture
def lab(outputs: Path, tmp_path: Path) -> Callable[..., Finished]:
    """Run the command in a process of its own, in an empty folder unless told otherwise."""

    def run(*arguments: str, cwd: Path = tmp_path, env: Mapping[str, str] | None = None) -> Finished:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of two layers with random weights, which reads the task that ships."""
    # not before it is asked for: torch takes seconds to load
    import torch  # noqa: PLC0415

    from lab.core.mixers.rotary import RotaryConfig  # noqa: PLC0415
    from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig  # noqa: PLC0415
    from lab.core.models.hovle.config import HovleConfig  # noqa: PLC0415
    from lab.experiments.distill.tasks.picture_questions import picture_questions_tokenizer  # noqa: PLC0415
    from lab.experiments.distill.teacher import new_teacher, write_teacher  # noqa: PLC0415

    decoder = DecoderConfig(
        num_layers=1,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=96,
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=1e4, max_length=1024),
    )
    vision = VisionConfig(
        image_size=28,
        patch_size=7,
        num_channels=3,
        shuffle_factor=2,
        pixel_shuffle=PixelShuffle.pre,
        image_token_id=4,
    )
    tokenizer = picture_questions_tokenizer("")
    model = new_teacher(
        HovleConfig(vision=vision, embedding=decoder, llm=decoder), tokenizer, device=torch.device("cpu"), seed=0
    )
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    write_teacher(model, tokenizer, folder)
    return folder
