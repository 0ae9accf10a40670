"""transformers gives the logits and the answers of every student that has a stock home, from the folder alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stock_homes import home, name_of

from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.checkpoint import CONFIG, ONE_FILE, write_checkpoint
from lab.core.models.decoder import LanguageModel
from lab.core.runs.sums import SUMS
from lab.core.stock.layout import choose
from lab.core.stock.verify import NUM_NEW, TOLERANCE, probe, verify

pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Student = Callable[..., LanguageModel]


def write(model: LanguageModel, folder: Path) -> None:
    layout = choose(model)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    write_checkpoint(folder, layout.keys().to_public(model.state_dict()), layout.config(torch.float32, ids))
    (folder / SUMS).unlink()


def test_transformers_computes_what_the_student_does(
    student: Student,
    tmp_path: Path,
    combination: tuple[str, str, str, int],
    record_property: Callable[..., None],
) -> None:
    teacher, mixer, kept, kernel = combination
    model = student(teacher, mixer, kept, conv_kernel=kernel)
    expected = home(teacher, mixer, kept)
    if expected is None:
        with pytest.raises(ConfigError) as refusal:
            choose(model)
        record_property("agreement", f"{teacher} | {mixer} | {kernel} | {kept} | refused: {refusal.value}")
        return
    name = choose(model).name
    assert name == name_of(teacher, expected)
    write(model, tmp_path / "student")
    found = verify(tmp_path / "student", model, probe(model, torch.Generator().manual_seed(1)))
    record_property("agreement", f"{teacher} | {mixer} | {kernel} | {kept} | {name} | {found.relative_error:.1e}")
    assert found.limit == TOLERANCE
    assert found.num_tokens == NUM_NEW


@pytest.mark.parametrize(("teacher", "mixer"), [("smollm2", "gate first"), ("qwen2", "norm first")])
def test_transformers_computes_two_timescales(student: Student, tmp_path: Path, teacher: str, mixer: str) -> None:
    model = student(teacher, mixer, "hybrid", timescales=2, skip=True)
    assert choose(model).name == home(teacher, mixer, "hybrid")
    write(model, tmp_path / "student")
    found = verify(tmp_path / "student", model, probe(model, torch.Generator().manual_seed(1)))
    assert (found.limit, found.num_tokens) == (TOLERANCE, NUM_NEW)


@pytest.mark.parametrize(("key", "value"), [("mamba_norm_before_gate", False), ("rms_norm_eps", 1e-2)])
def test_another_model_does_not_agree(student: Student, tmp_path: Path, key: str, value: object) -> None:
    model = student("llama", "norm first", "hybrid")
    write(model, tmp_path / "student")
    path = tmp_path / "student" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match="the logits of transformers differ by"):
        verify(tmp_path / "student", model, probe(model, torch.Generator().manual_seed(1)))


def test_a_folder_that_transformers_cannot_load_is_refused(student: Student, tmp_path: Path) -> None:
    model = student("llama", "gate first", "hybrid")
    write(model, tmp_path / "student")
    prompt = probe(model, torch.Generator().manual_seed(1))
    tensors = load_file(tmp_path / "student" / ONE_FILE)
    del tensors["model.layers.1.mamba.A_log"]
    save_file(tensors, tmp_path / "student" / ONE_FILE)
    with pytest.raises(CheckpointError, match="missing_keys"):
        verify(tmp_path / "student", model, prompt)
    path = tmp_path / "student" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "no_such_model"}))
    with pytest.raises(CheckpointError, match="cannot be run by transformers"):
        verify(tmp_path / "student", model, prompt)
