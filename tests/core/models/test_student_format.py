"""Students in mmMamba's released layout, out and in; what does not fit is one clear line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.core.errors import CheckpointError, ConfigError, LabError, RunError
from lab.core.mixers.mamba2 import Mamba2, Mamba2Kernels, Mamba2Options
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.mixers.spec import mixer_like
from lab.core.models.checkpoint import CONFIG, INDEX, ONE_FILE, write_checkpoint
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import Kind, ModelFolder
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.qwen2 import Qwen2Config
from lab.core.models.spec import build, family_of, key_map
from lab.core.models.student_format import BLOCK_TYPE, MIXER_OPTIONS, write_student
from lab.core.models.text_model import TextModel
from lab.core.runs.sums import SUMS

CPU = torch.device("cpu")
TOLERANCE = 1e-12


@pytest.fixture
def released_folder(golden: Path, tmp_path: Path) -> Path:
    """The public code's hybrid student as a folder, with a config.json as its release has it."""
    folder = tmp_path / "released"
    folder.mkdir()
    shutil.copy(golden / "student_hybrid_released.safetensors", folder / ONE_FILE)
    content, meta = (json.loads((golden / name).read_text()) for name in (CONFIG, "meta.json"))
    num_embedding = meta["embedding_layers"]
    types = ["mamba2"] * (num_embedding + meta["llm_layers"])
    for index in meta["hybrid_softmax_layers"]:
        types[index] = "mha"
    content["model_type"] = "mmMamba_chat"
    content["embedding_config"] |= {"model_type": "mmMamba_embedding", BLOCK_TYPE: types[:num_embedding]}
    content["llm_config"] |= {"model_type": "mmMamba", BLOCK_TYPE: types[num_embedding:]}
    (folder / CONFIG).write_text(json.dumps(content))
    return folder


@pytest.fixture
def student(released_folder: Path) -> LanguageModel:
    return ModelFolder(released_folder).load(device=CPU, dtype=torch.float32)


@pytest.fixture
def teacher_folder(golden: Path, tmp_path: Path) -> Path:
    """A teacher with files of every sort beside its weights."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    for name in (CONFIG, ONE_FILE):
        shutil.copy(golden / name, folder / name)
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json", "README.md"):
        (folder / name).write_text(f"content of {name}")
    # nothing of it is run
    (folder / "tokenization_internlm2.py").write_text("raise SystemExit('this code was run')")
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    (folder / "assets").mkdir()
    return folder


def changed(folder: Path, **entries: Any) -> None:
    """Set keys of config.json, in its sections embedding_config and llm_config."""
    content = json.loads((folder / CONFIG).read_text())
    for section, values in entries.items():
        content[section] |= values
    (folder / CONFIG).write_text(json.dumps(content))


def refused(folder: Path) -> str:
    with pytest.raises(LabError) as refusal:
        ModelFolder(folder).load(device=CPU, dtype=torch.float32)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_the_released_file_gives_the_logits_of_the_public_code(
    released_folder: Path, inputs: Inputs, expected: dict[str, Tensor]
) -> None:
    logits = ModelFolder(released_folder).load(device=CPU, dtype=torch.float64)(inputs)
    error = (logits - expected["moved_hybrid_logits"]).abs().max() / expected["moved_hybrid_logits"].abs().max()
    assert error < TOLERANCE


def test_a_student_is_written_as_it_was_read(released_folder: Path, student: LanguageModel, tmp_path: Path) -> None:
    write_student(tmp_path / "out", student, teacher=None)
    original, written = load_file(released_folder / ONE_FILE), load_file(tmp_path / "out" / ONE_FILE)
    assert original.keys() == written.keys()
    assert all(written[name].equal(tensor) for name, tensor in original.items())
    again = ModelFolder(tmp_path / "out").load(device=CPU, dtype=torch.float32)
    assert all(again.state_dict()[name].equal(tensor) for name, tensor in student.state_dict().items())


def test_a_loaded_student_is_frozen_owns_its_memory_and_knows_its_implementations(student: LanguageModel) -> None:
    assert not student.training
    assert not any(parameter.requires_grad for parameter in student.parameters())
    storages = [tensor.untyped_storage().data_ptr() for tensor in student.state_dict().values()]
    assert len(set(storages)) == len(storages)
    mixers = [layer.layer.mixer for layer in student.mixer_layers()]
    assert {type(mixer) for mixer in mixers} == {Mamba2, SoftmaxAttention}
    assert all("auto" not in mixer.backends.values() for mixer in mixers if isinstance(mixer, Mamba2))


def test_implementations_may_be_named(released_folder: Path) -> None:
    options = Mamba2Options(kernels=Mamba2Kernels(ssd="reference"))
    student = ModelFolder(released_folder).load(device=CPU, dtype=torch.float32, options=options)
    mixers = [layer.layer.mixer for layer in student.mixer_layers()]
    chosen = {mixer.backends["ssd"].name for mixer in mixers if isinstance(mixer, Mamba2)}  # type: ignore[union-attr]
    assert chosen == {"reference"}


def test_files_of_the_teacher_are_carried_over_but_for_its_weights_and_its_card(
    student: LanguageModel, teacher_folder: Path, tmp_path: Path
) -> None:
    for name in ["tf_model.h5", "tf_model.h5.index.json", "flax_model.msgpack", "Model.ONNX", "a.ckpt"]:
        (teacher_folder / name).write_bytes(b"weights")
    write_student(tmp_path / "out", student, teacher=ModelFolder(teacher_folder))
    carried = ["generation_config.json", "tokenization_internlm2.py", "tokenizer.model"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([*carried, "tokenizer_config.json", CONFIG, ONE_FILE, SUMS])
    for name in carried:
        assert (tmp_path / "out" / name).read_bytes() == (teacher_folder / name).read_bytes()
    ModelFolder(tmp_path / "out").load(device=CPU, dtype=torch.float32)


def test_config_json_says_which_layer_is_which_and_keeps_the_rest(
    student: LanguageModel, released_folder: Path, golden: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    write_student(tmp_path / "out", student, teacher=ModelFolder(teacher_folder))
    before, after, public = (
        json.loads((folder / CONFIG).read_text()) for folder in (golden, tmp_path / "out", released_folder)
    )
    assert after["model_type"] == "mmMamba_chat"
    assert after["torch_dtype"] == "float32"
    for section in ("embedding_config", "llm_config"):
        assert after[section][BLOCK_TYPE] == public[section][BLOCK_TYPE]
        assert after[section]["model_type"] == public[section]["model_type"]
        ours = {BLOCK_TYPE, "model_type", "architectures", "auto_map"}
        kept = {key: value for key, value in before[section].items() if key not in ours}
        assert kept.items() <= {key: value for key, value in after[section].items() if key not in ours}.items()
    assert after["template"] == before["template"]
    assert ModelFolder(tmp_path / "out").kind is Kind.student
    assert ModelFolder(golden).kind is Kind.teacher


def test_a_large_student_is_written_in_shards(student: LanguageModel, tmp_path: Path) -> None:
    write_student(tmp_path / "out", student, teacher=None, max_shard_bytes=100_000)
    assert (tmp_path / "out" / INDEX).exists()
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    again = ModelFolder(tmp_path / "out").load(device=CPU, dtype=torch.float32)
    assert all(again.state_dict()[name].equal(tensor) for name, tensor in student.state_dict().items())


def test_a_released_layer_has_6160_fused_rows(released: HovleConfig) -> None:
    model = build(released)
    for layer in model.mixer_layers():
        attention = layer.layer.mixer
        assert isinstance(attention, SoftmaxAttention)
        layer.layer.mixer = mixer_like(attention, Mamba2Options())
    public = key_map(model).to_public(model.state_dict())
    assert public["embedding_model.encoder.7.attention.wvkqgdt.weight"].shape == (6160, 2048)
    assert public["language_model.model.layers.23.attention.conv1d.weight"].shape == (4096, 1, 2)


def test_fused_rows_are_v_k_q_gate_and_step_sizes(student: LanguageModel) -> None:
    public = key_map(student).to_public(student.state_dict())
    layer = next(layer for layer in student.mixer_layers() if layer.layer.mixer.kind == "mamba2" and layer.index > 1)
    mixer = layer.layer.mixer
    assert isinstance(mixer, Mamba2)
    (name,) = [
        key for key in public if key.endswith("wvkqgdt.weight") and public[key][0].equal(mixer.vkq_proj.weight[0])
    ]
    num_kv, num_q = mixer.shape.num_kv_heads * mixer.shape.head_dim, mixer.shape.num_heads * mixer.shape.head_dim
    v, k, q, gate, steps = public[name].split([num_kv, num_kv, num_q, num_q, mixer.shape.num_heads])
    assert torch.cat([v, k, q]).equal(mixer.vkq_proj.weight)
    assert gate.equal(mixer.g_proj.weight)
    assert steps.equal(mixer.in_proj.weight)


def test_a_folder_in_use_is_refused_unless_it_is_to_be_replaced(student: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists; give a folder that does not, or remove it"):
        write_student(folder, student, teacher=None)
    assert (folder / "note.txt").read_text() == "mine"
    write_student(folder, student, teacher=None, replace=True)
    assert sorted(path.name for path in folder.iterdir()) == [SUMS, CONFIG, ONE_FILE]
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_a_replacement_that_fails_leaves_what_was_there(
    student: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    write_student(folder, student, teacher=None)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(*_: object) -> None:
        raise OSError("out of luck")

    monkeypatch.setattr("lab.core.models.checkpoint.write_json", fails)
    with pytest.raises(RunError, match="out of luck"):
        write_student(folder, student, teacher=None, replace=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_teacher_is_never_replaced(student: LanguageModel, teacher_folder: Path) -> None:
    before = (teacher_folder / ONE_FILE).read_bytes()
    with pytest.raises(CheckpointError, match="is the teacher's folder; give another one to the student"):
        write_student(teacher_folder, student, teacher=ModelFolder(teacher_folder), replace=True)
    assert (teacher_folder / ONE_FILE).read_bytes() == before


def test_another_teacher_is_refused(student: LanguageModel, golden: Path, tmp_path: Path) -> None:
    other = golden.parent / {"hovle_pre": "hovle_post", "hovle_post": "hovle_pre"}[golden.name]
    with pytest.raises(CheckpointError, match="describes another model than the student's teacher"):
        write_student(tmp_path / "out", student, teacher=ModelFolder(other))
    assert not (tmp_path / "out").exists()


def test_variants_of_the_layer_are_written_as_such_and_read_back(student: LanguageModel, tmp_path: Path) -> None:
    for layer in student.converted_layers():
        options = Mamba2Options(conv_kernel=4, skip=True)
        mixer = mixer_like(layer.layer.mixer, options).to_empty(device=CPU)
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(layer.index))
        layer.layer.mixer = mixer
    write_student(tmp_path / "out", student, teacher=None)
    content = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (content["model_type"], content[MIXER_OPTIONS]) == (
        "internvl_chat_mamba2",
        {"conv_kernel": 4, "skip": True},
    )
    again = ModelFolder(tmp_path / "out").load(device=CPU, dtype=torch.float32)
    assert all(again.state_dict()[name].equal(tensor) for name, tensor in student.state_dict().items())
    assert again.converted_layers()[0].layer.mixer.options == options


def test_layers_of_two_variants_are_no_folder(student: LanguageModel, tmp_path: Path) -> None:
    layer = student.converted_layers()[0].layer
    layer.mixer = mixer_like(layer.mixer, Mamba2Options(conv_kernel=4))
    with pytest.raises(ConfigError, match="but a folder describes one mixer"):
        write_student(tmp_path / "out", student, teacher=None)
    assert not (tmp_path / "out").exists()


@pytest.fixture(params=[False, True], ids=["llama", "qwen2"])
def text_student(request: pytest.FixtureRequest, tiny_llama: Callable[..., LlamaConfig]) -> LanguageModel:
    """A text model whose second layer of two is Mamba-2; every tensor holds random numbers."""
    config = tiny_llama(tie_output=not request.param)
    if request.param:
        config = Qwen2Config(**(asdict(config) | {"rotary": config.rotary, "qkv_bias": True}))
    student = build(config)
    layer = student.mixer_layers()[1].layer
    assert isinstance(layer.mixer, SoftmaxAttention)
    layer.mixer = mixer_like(layer.mixer, Mamba2Options())
    student = student.to_empty(device=CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return student


def test_the_folder_of_a_text_student_says_that_it_is_no_llama(text_student: LanguageModel, tmp_path: Path) -> None:
    write_student(tmp_path / "out", text_student, teacher=None, more={"note": 1})
    content = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert content["model_type"] in ("llama_mamba2", "qwen2_mamba2")
    assert content[BLOCK_TYPE] == ["mha", "mamba2"]
    assert content["note"] == 1
    assert ModelFolder(tmp_path / "out").mixers == ["mha", "mamba2"]
    (tmp_path / "out" / SUMS).unlink()
    (tmp_path / "out" / CONFIG).write_text(json.dumps({**content, "model_type": "gemma_mamba2"}))
    assert "model_type=gemma_mamba2 is not implemented for students, only TEACHER_MIXER with" in refused(
        tmp_path / "out"
    )


def test_a_text_student_takes_over_the_files_of_its_teacher(text_student: LanguageModel, tmp_path: Path) -> None:
    assert isinstance(text_student, TextModel)
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / CONFIG).write_text(
        json.dumps({**family_of(text_student.config).config_json(text_student.config), "eos_token_id": 2})
    )
    (teacher / "tokenizer.json").write_text("{}")
    write_student(tmp_path / "out", text_student, teacher=ModelFolder(teacher))
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["eos_token_id"] == 2
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    ModelFolder(tmp_path / "out").load(device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("llm_config", None, "llm_config.layers_block_type=None must be a list of 3, one for each layer"),
        ("llm_config", ["mha"], "llm_config.layers_block_type=['mha'] must be a list of 3"),
        (
            "llm_config",
            ["mha", "mamba", "mha"],
            "llm_config.layers_block_type[1]=mamba must be gated_deltanet or mamba2 or mha",
        ),
    ],
)
def test_lists_of_layers_that_do_not_fit(released_folder: Path, section: str, value: object, message: str) -> None:
    changed(released_folder, **{section: {BLOCK_TYPE: value}})
    assert message in refused(released_folder)


def test_a_list_that_contradicts_the_weights(released_folder: Path) -> None:
    changed(released_folder, llm_config={BLOCK_TYPE: ["mamba2"] * 3})
    assert "lacks language_model.model.layers.1.attention.wvkqgdt.weight" in refused(released_folder)


def test_what_a_student_s_config_may_not_ask_for(released_folder: Path) -> None:
    changed(released_folder, llm_config={"hidden_act": "gelu"})
    assert "llm_config.hidden_act=gelu is not implemented, only silu" in refused(released_folder)


def test_a_student_without_its_decay_rates_is_refused(released_folder: Path) -> None:
    tensors = load_file(released_folder / ONE_FILE)
    name = "language_model.model.layers.0.attention.A_log_bias"
    name = name if name in tensors else "language_model.model.layers.2.attention.A_log_bias"
    del tensors[name]
    save_file(tensors, released_folder / ONE_FILE)
    assert f"lacks {name}; the checkpoint is incomplete" in refused(released_folder)


def test_a_file_that_cannot_be_carried_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="gone cannot be read: it does not exist"):
        write_checkpoint(tmp_path / "out", {"a": torch.zeros(1)}, {}, carried=[tmp_path / "elsewhere" / "gone"])
    assert list(tmp_path.iterdir()) == []
