"""Checkpoints go out and in unchanged; a damaged one is one clear line."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.core.data.tokenizers import WordTokenizer
from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.checkpoint import CONFIG, INDEX, ONE_FILE, StoredTensors, write_checkpoint
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import ModelFolder, Precision
from lab.core.models.spec import key_map
from lab.core.runs.sums import SUMS

CPU = torch.device("cpu")
WQKV = "language_model.model.layers.1.attention.wqkv.weight"


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Path:
    """A checkpoint that may be damaged."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in (CONFIG, ONE_FILE):
        shutil.copy(golden / name, folder / name)
    return folder


@pytest.fixture
def sharded(golden: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    config = json.loads((golden / CONFIG).read_text())
    write_checkpoint(folder, load_file(golden / ONE_FILE), config, max_shard_bytes=200_000)
    # as a public checkpoint
    (folder / SUMS).unlink()
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refusal:
        ModelFolder(folder).load(device=CPU, dtype=torch.float32)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def rewritten(folder: Path, **changes: Tensor | None) -> None:
    tensors = load_file(folder / ONE_FILE)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / ONE_FILE)


def test_shards_hold_what_one_file_holds(golden: Path, sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in load_file(golden / ONE_FILE).values())
    whole, parts = (
        ModelFolder(folder).load(device=CPU, dtype=torch.float32).state_dict() for folder in (golden, sharded)
    )
    assert list(whole) == list(parts)
    assert all(parts[name].equal(tensor) for name, tensor in whole.items())


def test_a_teacher_is_written_as_it_was_read(golden: Path, tmp_path: Path) -> None:
    teacher = ModelFolder(golden).load(device=CPU, dtype=torch.float32)
    public = key_map(teacher).to_public(teacher.state_dict())
    write_checkpoint(tmp_path / "out", public, json.loads((golden / CONFIG).read_text()))
    original, written = StoredTensors(golden), StoredTensors(tmp_path / "out")
    assert sorted(written) == sorted(original)
    assert all(written[name].equal(original[name]) for name in original)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [SUMS, CONFIG, ONE_FILE]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_in_use_is_not_overwritten(copy: Path) -> None:
    before = (copy / ONE_FILE).read_bytes()
    with pytest.raises(CheckpointError, match="exists; give a folder that does not, or remove it"):
        write_checkpoint(copy, {"a": torch.zeros(1)}, {})
    assert (copy / ONE_FILE).read_bytes() == before


def test_a_folder_that_was_filled_meanwhile_is_kept(tmp_path: Path) -> None:
    def fill(partial: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "kept").write_text("")

    with pytest.raises(CheckpointError, match="model exists; give a folder that does not"):
        write_checkpoint(tmp_path / "model", {}, {}, write_more=fill)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "kept"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path / "out", {"a": torch.zeros(1)}, {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_model_owns_its_memory(golden: Path, copy: Path) -> None:
    teacher = ModelFolder(copy).load(device=CPU, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    with (copy / ONE_FILE).open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))
    assert all(teacher.state_dict()[name].equal(tensor) for name, tensor in before.items())


def test_a_missing_config(tmp_path: Path) -> None:
    assert "config.json cannot be read (No such file or directory)" in refused(tmp_path / "nowhere")


def test_a_config_that_is_no_json(copy: Path) -> None:
    (copy / CONFIG).write_text("{")
    assert "config.json is not valid JSON" in refused(copy)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("bfloat16", Precision.bfloat16),
        ("float16", Precision.float32),
        ({"text_config": "bfloat16", "": "float32"}, Precision.float32),
        ({"": "bfloat16"}, Precision.bfloat16),
    ],
)
def test_the_dtype_that_a_config_names(copy: Path, named: object, expected: Precision) -> None:
    content = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(content | {"torch_dtype": named}))
    assert ModelFolder(copy).precision is expected


@pytest.mark.parametrize("named", [["bfloat16"], {"": ["bfloat16"]}, 16])
def test_a_dtype_that_is_no_name(copy: Path, named: object) -> None:
    (copy / CONFIG).write_text(json.dumps({"dtype": named}))
    with pytest.raises(ConfigError, match=r"config\.json: dtype=.* must be the name of a dtype"):
        ModelFolder(copy).precision  # noqa: B018


@pytest.mark.parametrize("name", [CONFIG, "generation_config.json"])
@pytest.mark.parametrize("end", [[[1]], "</s>", [1.5], True])
def test_an_end_that_is_no_id(copy: Path, name: str, end: object) -> None:
    (copy / name).write_text(json.dumps({"llm_config": {"eos_token_id": end}}))
    with pytest.raises(ConfigError, match=rf"{name}: eos_token_id=.* must be an id or a list of ids"):
        ModelFolder(copy).stop_ids(WordTokenizer(["bag"]))


@pytest.mark.parametrize("model_type", [["llama"], {"llama": 1}])
def test_a_model_type_of_a_student_that_is_no_text(copy: Path, model_type: object) -> None:
    content = {"model_type": model_type, "layers_block_type": ["mha"]}
    (copy / CONFIG).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="is not implemented for students"):
        ModelFolder(copy).architecture  # noqa: B018


def test_an_unknown_model_type(copy: Path) -> None:
    (copy / CONFIG).write_text('{"model_type": "mamba"}')
    with pytest.raises(ConfigError, match=r"model_type=mamba is not implemented, only .*llama, .*mistral"):
        ModelFolder(copy).load(device=CPU, dtype=torch.float32)


def test_missing_weights(copy: Path) -> None:
    (copy / ONE_FILE).unlink()
    assert f"{ONE_FILE} is missing and there is no {INDEX}" in refused(copy)


def test_one_file_is_read_rather_than_shards_beside_it(
    golden: Path, sharded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ones = {name: torch.ones_like(tensor) for name, tensor in load_file(golden / ONE_FILE).items()}
    save_file(ones, sharded / ONE_FILE)
    stored = StoredTensors(sharded)
    assert stored[WQKV].equal(ones[WQKV])
    StoredTensors(sharded)
    assert capsys.readouterr().err.count(f"has both {ONE_FILE}, which is read, and {INDEX}, whose files are left") == 1


def test_a_missing_shard(sharded: Path) -> None:
    victim = sorted(sharded.glob("model-*"))[1]
    victim.unlink()
    assert f"{victim.name} is missing, though {INDEX} names it" in refused(sharded)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "", 3])
def test_an_index_that_points_elsewhere(sharded: Path, file: object) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"][WQKV] = file
    (sharded / INDEX).write_text(json.dumps(index))
    assert f"says that {WQKV} is in {file!r}; give the name of a file beside it" in refused(sharded)


def test_an_index_that_names_another_shard(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"][WQKV] = next(file for file in files if file != index["weight_map"][WQKV])
    (sharded / INDEX).write_text(json.dumps(index))
    assert f"lacks {WQKV}, which {INDEX} says it holds" in refused(sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_without_a_map(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    assert f"{INDEX} has no weight_map" in refused(sharded)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_a_file_that_is_cut_off(copy: Path, share: float) -> None:
    content = (copy / ONE_FILE).read_bytes()
    (copy / ONE_FILE).write_bytes(content[: int(share * len(content))])
    assert f"{ONE_FILE} is cut off or no safetensors file" in refused(copy)


def test_a_pickle_is_not_read(copy: Path) -> None:
    torch.save({"a": torch.zeros(3)}, copy / ONE_FILE)
    assert f"{ONE_FILE} is cut off or no safetensors file" in refused(copy)


def test_a_missing_tensor(copy: Path) -> None:
    rewritten(copy, **{WQKV: None})
    assert f"lacks {WQKV}; the checkpoint is incomplete" in refused(copy)


def test_a_tensor_too_many(copy: Path) -> None:
    rewritten(copy, **{"embedding_model.special_text_embeddings.weight": torch.zeros(3)})
    assert "holds embedding_model.special_text_embeddings.weight, which config.json has no place for" in refused(copy)


def test_tensors_that_follow_from_the_config_are_ignored(copy: Path) -> None:
    rewritten(copy, **{"language_model.model.layers.0.attention.rotary_emb.inv_freq": torch.zeros(8)})
    ModelFolder(copy).load(device=CPU, dtype=torch.float32)


def test_a_wrong_shape(copy: Path) -> None:
    rows = load_file(copy / ONE_FILE)[WQKV].shape[0]
    rewritten(copy, **{WQKV: torch.zeros(rows - 16, 48)})
    assert f"{WQKV} has shape ({rows - 16}, 48) but config.json makes it ({rows}, " in refused(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(copy: Path, value: float) -> None:
    weight = load_file(copy / ONE_FILE)[WQKV]
    weight[-1, -1] = value
    rewritten(copy, **{WQKV: weight})
    assert f"{WQKV} holds NaN or infinity" in refused(copy)


@pytest.mark.parametrize(("dtype", "stored"), [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_quantised_weights(copy: Path, dtype: torch.dtype, stored: str) -> None:
    rewritten(copy, **{WQKV: load_file(copy / ONE_FILE)[WQKV].to(dtype)})
    assert f"{WQKV} has dtype {dtype}; quantised weights are not implemented" in refused(copy)
    with pytest.raises(CheckpointError, match=f"has dtype {stored}; quantised weights are not implemented"):
        ModelFolder(copy).unloaded(dtype=torch.float32)


def test_weights_of_another_model(teacher: LanguageModel, golden: Path, copy: Path) -> None:
    other = golden.parent / {"hovle_pre": "hovle_post", "hovle_post": "hovle_pre"}[golden.name]
    shutil.copy(other / CONFIG, copy / CONFIG)
    assert "do not belong together" in refused(copy) or "lacks" in refused(copy)
