"""mmMamba's released layout: a student as a checkpoint folder, out and in.

config.json says in `layers_block_type` which layer of the embedding and of the language model is `mamba2` and which is
`mha`. A Mamba-2 layer has one fused projection, `wvkqgdt`, and keeps A_log and dt_bias; an attention has `wqkv` and
`wo`, bit for bit the teacher's.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.mamba2 import Mamba2, Mamba2Kernels, Mamba2Options
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.checkpoint import CONFIG, MAX_SHARD_BYTES, StoredTensors, load_weights, write_checkpoint
from lab.core.models.config_json import Json, hovle_json, load_json, read_hovle
from lab.core.models.decoder import LanguageModel
from lab.core.models.hovle import Hovle
from lab.core.models.hybrid import choose_backends, layers_of_kind, mamba2_like
from lab.core.models.keys import hovle_keys
from lab.core.models.teachers import build

BLOCK_TYPE = "layers_block_type"
SECTIONS = ("embedding_config", "llm_config")
# what the release calls our mixers
BLOCK_TYPES = {Mamba2.kind: "mamba2", SoftmaxAttention.kind: "mha"}

# how transformers finds the release's own modelling files, which a user may put beside the weights; never run here
_RELEASED: dict[str | None, dict[str, Any]] = {
    None: {
        "model_type": "mmMamba_chat",
        "architectures": ["mmMambaChatModel"],
        "auto_map": {
            "AutoConfig": "configuration_mmMamba_chat.mmMambaChatConfig",
            "AutoModel": "modeling_mmMamba_chat.mmMambaChatModel",
            "AutoModelForCausalLM": "modeling_mmMamba_chat.mmMambaChatModel",
        },
    },
    "embedding_config": {"model_type": "mmMamba_embedding"},
    "llm_config": {
        "model_type": "mmMamba",
        "architectures": ["mmMambaForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_mmMamba.mmMambaConfig",
            "AutoModel": "modeling_mmMamba.mmMambaForCausalLM",
            "AutoModelForCausalLM": "modeling_mmMamba.mmMambaForCausalLM",
        },
    },
}
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")


def is_student(folder: Path) -> bool:
    """Whether config.json is that of a student.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    content = load_json(folder / CONFIG)
    return any(isinstance(content.get(name), dict) and BLOCK_TYPE in content[name] for name in SECTIONS)


def load_student(
    folder: Path, *, device: torch.device, dtype: torch.dtype, kernels: Mamba2Kernels | None = None
) -> LanguageModel:
    """A linear or hybrid student from its released layout, frozen and in evaluation mode.

    Args:
        folder: config.json and safetensors, as `write_student` or mmMamba's authors wrote them.
        device: of the weights.
        dtype: of the weights.
        kernels: implementations of the mixers' operators; None for the best that can run.

    Raises:
        BackendError: if an implementation that is asked for by name cannot run there.
        CheckpointError: for files that are missing, damaged or do not fit config.json.
        ConfigError: for an architecture that is not implemented, naming key and value.
    """
    content = load_json(folder / CONFIG)
    try:
        model = build(read_hovle(_without_block_types(content)), dtype=dtype)
        kinds = _kinds(content)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from None
    for layer, kind in zip(model.mixer_layers(), kinds, strict=True):
        attention = layer.layer.mixer
        assert isinstance(attention, SoftmaxAttention), "build makes no other"
        if kind == Mamba2.kind:
            layer.layer.mixer = mamba2_like(attention, Mamba2Options())
    assert isinstance(model, Hovle), "read_hovle describes no other"
    load_weights(model, hovle_keys(model), StoredTensors(folder), source=folder, device=device, dtype=dtype)
    choose_backends(model, Mamba2Kernels() if kernels is None else kernels)
    return model.requires_grad_(False).eval()


def write_student(
    folder: Path,
    student: LanguageModel,
    *,
    teacher_folder: Path | None,
    replace: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a student into a folder that is complete or absent.

    Args:
        folder: must not exist or be empty, unless `replace`.
        student: HoVLE with the layer of mmMamba; ablations have no place in the layout.
        teacher_folder: whose config.json is taken over with the student's changes, and whose other files (tokenizer
            and so on) are copied; None for a config.json that describes the architecture alone.
        replace: whether a folder that is in use is replaced.
        max_shard_bytes: above it the tensors go into several files, with an index.

    Raises:
        CheckpointError: if the folder is in use, or the teacher's config.json is missing or another model's.
        ConfigError: if the layout has no place for the student.
        RunError: if the disk is full or cannot be written.
    """
    if not isinstance(student, Hovle):
        raise ConfigError(f"a student of {type(student).__name__} has no released layout, only one of HoVLE has")
    _refuse_ablations(student)
    content: Json = hovle_json(student.config)
    carried: list[Path] = []
    if teacher_folder is not None:
        if folder.resolve() == teacher_folder.resolve():
            raise CheckpointError(f"{folder} is the teacher's own folder; give another one to the student")
        content = load_json(teacher_folder / CONFIG)
        if read_hovle(content) != student.config:
            raise CheckpointError(
                f"{teacher_folder / CONFIG} describes another model than the student's teacher; give its folder"
            )
        carried = [path for path in sorted(teacher_folder.iterdir()) if _is_carried(path)]
    write_checkpoint(
        folder,
        hovle_keys(student).to_public(student.state_dict()),
        _released_json(content, student),
        carried=carried,
        replace=replace,
        max_shard_bytes=max_shard_bytes,
    )


def _refuse_ablations(student: Hovle) -> None:
    for layer in layers_of_kind(student, Mamba2.kind):
        assert isinstance(layer.layer.mixer, Mamba2), "the kind says so"
        for option in fields(Mamba2Options):
            value = getattr(layer.layer.mixer.options, option.name)
            # how the state is kept is no part of a model
            if option.name != "low_precision_state" and value != option.default:
                raise ConfigError(
                    f"the student's {option.name}={value} has no place in the released layout, which knows only "
                    f"{option.name}={option.default}; keep this student as the checkpoint of its run"
                )


def _released_json(content: Json, student: Hovle) -> dict[str, Any]:
    released: dict[str, Any] = json.loads(json.dumps(content))
    for section, entries in _RELEASED.items():
        (released if section is None else released[section]).update(entries)
    released["torch_dtype"] = str(student.llm.norm.weight.dtype).removeprefix("torch.")
    for section, layers in zip(SECTIONS, (student.embedding.layers, student.llm.layers), strict=True):
        released[section][BLOCK_TYPE] = [BLOCK_TYPES[layer.mixer.kind] for layer in layers]
    return released


def _kinds(content: Json) -> list[str]:
    """The kind of every layer's mixer, through the embedding first."""
    by_type = {block_type: kind for kind, block_type in BLOCK_TYPES.items()}
    kinds = []
    for section in SECTIONS:
        num_layers, types = content[section]["num_hidden_layers"], content[section].get(BLOCK_TYPE)
        if not isinstance(types, list) or len(types) != num_layers:
            raise ConfigError(f"{section}.{BLOCK_TYPE}={types} must be a list of {num_layers}, one for each layer")
        for i, block_type in enumerate(types):
            if block_type not in by_type:
                raise ConfigError(f"{section}.{BLOCK_TYPE}[{i}]={block_type} must be {' or '.join(by_type)}")
            kinds.append(by_type[block_type])
    return kinds


def _without_block_types(content: Json) -> Mapping[str, Any]:
    without = dict(content)
    for section in SECTIONS:
        if isinstance(content.get(section), dict):
            without[section] = {key: value for key, value in content[section].items() if key != BLOCK_TYPE}
    return without


def _is_carried(path: Path) -> bool:
    """Whether a file of the teacher's folder belongs to the student too."""
    return path.is_file() and path.name != CONFIG and not path.name.endswith(_WEIGHTS)
