"""Each of several processes reads its parts of a teacher alone, and together they have the whole, bit for bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import held_by_a_process
import pytest
import torch
from held_by_a_process import RANDOM, teacher_of
from safetensors.torch import load_file, save_file
from several_processes import Launcher

from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.checkpoint import ONE_FILE, write_checkpoint
from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig
from lab.core.models.families import build_random
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.phi3.config import Phi3Config
from lab.core.models.qwen2 import Qwen2Config
from lab.core.models.spec import family_of, key_map
from lab.core.runs.sums import SUMS
from lab.experiments.distill.teacher import digest, load_teacher

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CUT = ("parallel.strategy=fsdp", "parallel.frozen=sharded")
SCRIPT = Path(held_by_a_process.__file__)


def sizes(num_layers: int) -> dict[str, Any]:
    """About 17 MB a layer; no number of rows of the embedding is even."""
    return {
        "num_layers": num_layers,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_heads": 8,
        "num_kv_heads": 4,
        "head_dim": 64,
        "vocab_size": 1001,
        "rms_norm_eps": 1e-5,
        "rotary": RotaryConfig(theta=1e4, max_length=64),
    }


def architectures() -> dict[str, Any]:
    """Tensors as here (HoVLE), with biases and in pieces (Qwen2), and several in one (Phi-3)."""
    vision = VisionConfig(
        image_size=28,
        patch_size=7,
        num_channels=3,
        shuffle_factor=2,
        pixel_shuffle=PixelShuffle.pre,
        image_token_id=4,
    )
    return {
        "hovle": HovleConfig(vision=vision, embedding=DecoderConfig(**sizes(2)), llm=DecoderConfig(**sizes(10))),
        "qwen2": Qwen2Config(**sizes(12), qkv_bias=True),
        "phi3": Phi3Config(**sizes(12)),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("teachers")
    for name, architecture in architectures().items():
        generator = torch.Generator().manual_seed(0)
        model = build_random(architecture, device=CPU, dtype=torch.float32, generator=generator, std=0.5)
        with torch.no_grad():
            for parameter in model.parameters():
                # biases and norms too differ from row to row
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        public = key_map(model).to_public(model.state_dict())
        write_checkpoint(root / name, public, family_of(architecture).config_json(architecture))
    return [root / name for name in architectures()]


def held(place: str, folders: list[Path], out: Path) -> list[dict[str, tuple[int, str]]]:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*words, str(SCRIPT), place, str(out), *map(str, folders)], check=True, timeout=300)
    return [json.loads((out / f"{place}-{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_hold_half_each_and_together_the_same_bits(folders: list[Path], tmp_path: Path) -> None:
    processes = held("meta", folders, tmp_path)
    for name in (RANDOM, *map(str, folders)):
        model = load_teacher(teacher_of(name), device=CPU, seed=0)
        num_bytes = sum(parameter.nbytes for parameter in model.parameters())
        for found in processes:
            peak, bits = found[name]
            assert bits == digest(model), name
            if name != RANDOM:
                print(f"{Path(name).name}: {peak / 1e6:.0f} MB of {num_bytes / 1e6:.0f} MB")
                assert 0.45 * num_bytes < peak < 0.65 * num_bytes, name


def test_the_measure_sees_a_whole_model(folders: list[Path], tmp_path: Path) -> None:
    (folder, *_) = folders
    num_bytes = (folder / ONE_FILE).stat().st_size
    for found in held("cpu", [folder], tmp_path):
        assert found[str(folder)][0] > num_bytes


@pytest.mark.parametrize("row", [0, -1])
def test_numbers_that_are_not_finite_are_refused_by_whoever_reads_them(
    row: int, launcher: Launcher, teacher_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "teacher"
    shutil.copytree(teacher_folder, copy)
    (copy / SUMS).unlink()
    tensors = load_file(copy / ONE_FILE)
    name = "language_model.output.weight"
    tensors[name][row, 0] = float("nan")
    save_file(tensors, copy / ONE_FILE)
    words = launcher.words(f"not finite {row}", "stage=all", *CUT, f"teacher.path={copy}")
    process = launcher.start(words, 2)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = [line for line in said.splitlines() if line.startswith("lab: ")]
    assert f"{name} holds NaN or infinity" in line
    assert not (launcher.root / f"not finite {row}" / "metrics.jsonl").exists()


def test_a_teacher_whose_headers_do_not_fit_is_refused_before_its_numbers_are_read(
    launcher: Launcher, teacher_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "teacher"
    shutil.copytree(teacher_folder, copy)
    (copy / SUMS).unlink()
    tensors = load_file(copy / ONE_FILE)
    name = "language_model.output.weight"
    save_file({**tensors, name: tensors[name][1:].clone()}, copy / ONE_FILE)
    process = launcher.start(launcher.words("other", "stage=all", *CUT, f"teacher.path={copy}"), 2)
    _, said = process.communicate(timeout=120)
    (line,) = [line for line in said.splitlines() if line.startswith("lab: ")]
    assert f"{name} has shape" in line
    assert not (launcher.root / "other").exists()
