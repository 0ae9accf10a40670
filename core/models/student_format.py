"""Students as checkpoint folders, out and in: mmMamba's released layout, and the same idea for text models.

config.json says in `layers_block_type` which layer of the embedding and of the language model is `mamba2` and which is
`mha`. A Mamba-2 layer has one fused projection, `wvkqgdt`, and keeps A_log and dt_bias; an attention has its own
tensors, bit for bit the teacher's.

No release of a text model is known. Its folder is the teacher's with the same Mamba-2 layers under `self_attn` and one
list of block types; its model_type is one that transformers refuses, which would else draw the missing projections at
random.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.mamba2 import Mamba2, Mamba2Kernels, Mamba2Options
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.checkpoint import CONFIG, MAX_SHARD_BYTES, StoredTensors, load_weights, write_checkpoint
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.families import build, key_map, read_architecture
from lab.core.models.hf_config import Json, hovle_json, llama_json, load_json, read_hovle, read_llama
from lab.core.models.hovle import Hovle
from lab.core.models.hybrid import choose_backends, layers_of_kind, mamba2_like
from lab.core.models.llama import Llama

BLOCK_TYPE = "layers_block_type"
# what the release calls our mixers
BLOCK_TYPES = {Mamba2.kind: "mamba2", SoftmaxAttention.kind: "mha"}

# objects of config.json that describe a stack of layers; a text model has one stack, described by the file itself
_SECTIONS = ("embedding_config", "llm_config")
_WHOLE = ""
# model_type of text students by that of the teacher
_TEXT_TYPES = {"llama": "llama_mamba2", "qwen2": "qwen2_mamba2"}

# how transformers finds the release's own modelling files, which a user may put beside the weights; never run here
_RELEASED: dict[str, dict[str, Any]] = {
    _WHOLE: {
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


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder's config.json is that of a model.

    Raises:
        CheckpointError: if it is damaged.
    """
    return (folder / CONFIG).is_file() and "model_type" in load_json(folder / CONFIG)


def is_student(folder: Path) -> bool:
    """Whether config.json is that of a student.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    content = load_json(folder / CONFIG)
    return any(BLOCK_TYPE in section for section in _sections(content))


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
        model = build(_architecture(content), dtype=dtype)
        kinds = _kinds(content)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from None
    for layer, kind in zip(model.mixer_layers(), kinds, strict=True):
        attention = layer.layer.mixer
        assert isinstance(attention, SoftmaxAttention), "build makes no other"
        if kind == Mamba2.kind:
            layer.layer.mixer = mamba2_like(attention, Mamba2Options())
    load_weights(model, key_map(model), StoredTensors(folder), source=folder, device=device, dtype=dtype)
    choose_backends(model, Mamba2Kernels() if kernels is None else kernels)
    return model.requires_grad_(False).eval()


def write_student(
    folder: Path,
    student: LanguageModel,
    *,
    teacher_folder: Path | None,
    carried: Iterable[Path] = (),
    more: Json | None = None,
    replace: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a student into a folder that is complete or absent.

    Args:
        folder: must not exist or be empty, unless `replace`.
        student: with the layer of mmMamba; ablations have no place in the layout.
        teacher_folder: whose config.json is taken over with the student's changes, and whose other files (tokenizer
            and so on) are copied; None for a config.json that describes the architecture alone.
        carried: other files that are copied.
        more: other keys of config.json.
        replace: whether a folder that is in use is replaced.
        max_shard_bytes: above it the tensors go into several files, with an index.

    Raises:
        CheckpointError: if the folder is in use, or the teacher's config.json is missing or another model's.
        ConfigError: if the layout has no place for the student.
        RunError: if the disk is full or cannot be written.
    """
    assert isinstance(student, Hovle | Llama), "the families that there are"
    _refuse_ablations(student)
    content: Json = hovle_json(student.config) if isinstance(student, Hovle) else llama_json(student.config)
    files = list(carried)
    if teacher_folder is not None:
        if folder.resolve() == teacher_folder.resolve():
            raise CheckpointError(f"{folder} is the teacher's own folder; give another one to the student")
        if read_architecture(teacher_folder) != student.config:
            raise CheckpointError(
                f"{teacher_folder / CONFIG} describes another model than the student's teacher; give its folder"
            )
        content = load_json(teacher_folder / CONFIG)
        files += _files_beside_weights(teacher_folder)
    write_checkpoint(
        folder,
        key_map(student).to_public(student.state_dict()),
        {**_student_json(content, student), **(more or {})},
        carried=files,
        replace=replace,
        max_shard_bytes=max_shard_bytes,
    )


def _files_beside_weights(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that belong to a student too: tokenizer, licence and so on."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != CONFIG and not path.name.endswith(_WEIGHTS)
    ]


def _refuse_ablations(student: LanguageModel) -> None:
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


def _student_json(content: Json, student: Hovle | Llama) -> dict[str, Any]:
    ours: dict[str, Any] = json.loads(json.dumps(content))
    if isinstance(student, Hovle):
        for name, entries in _RELEASED.items():
            (ours[name] if name else ours).update(entries)
        stacks = [student.embedding.layers, student.llm.layers]
    else:
        ours.pop("auto_map", None)
        ours |= {"model_type": _TEXT_TYPES[ours["model_type"]], "architectures": []}
        stacks = [student.llm.layers]
    ours["torch_dtype"] = str(student.llm.norm.weight.dtype).removeprefix("torch.")
    for section, layers in zip(_sections(ours), stacks, strict=True):
        section[BLOCK_TYPE] = [BLOCK_TYPES[layer.mixer.kind] for layer in layers]
    return ours


def _names(content: Json) -> Sequence[str]:
    """The objects of config.json that describe a stack of layers, in the order of computation."""
    return _SECTIONS if any(isinstance(content.get(name), dict) for name in _SECTIONS) else (_WHOLE,)


def _sections(content: Json) -> list[Any]:
    found = [content.get(name) if name else content for name in _names(content)]
    return [section if isinstance(section, dict) else {} for section in found]


def _architecture(content: Json) -> ModelConfig:
    """What config.json describes, its block types left out."""
    if _names(content) == _SECTIONS:
        sections = {name: content[name] for name in _SECTIONS if isinstance(content.get(name), dict)}
        return read_hovle({**content, **{name: _without_types(section) for name, section in sections.items()}})
    teachers = {ours: theirs for theirs, ours in _TEXT_TYPES.items()}
    model_type = content.get("model_type")
    if model_type not in teachers:
        raise ConfigError(f"model_type={model_type} is no student of a text model, only {', '.join(teachers)} are")
    return read_llama({**_without_types(content), "model_type": teachers[model_type]})


def _kinds(content: Json) -> list[str]:
    """The kind of every layer's mixer, through the embedding first."""
    by_type = {block_type: kind for kind, block_type in BLOCK_TYPES.items()}
    kinds = []
    for name, section in zip(_names(content), _sections(content), strict=True):
        key = f"{name}.{BLOCK_TYPE}" if name else BLOCK_TYPE
        num_layers, types = section["num_hidden_layers"], section.get(BLOCK_TYPE)
        if not isinstance(types, list) or len(types) != num_layers:
            raise ConfigError(f"{key}={types} must be a list of {num_layers}, one for each layer")
        for i, block_type in enumerate(types):
            if block_type not in by_type:
                raise ConfigError(f"{key}[{i}]={block_type} must be {' or '.join(by_type)}")
            kinds.append(by_type[block_type])
    return kinds


def _without_types(section: Json) -> Mapping[str, Any]:
    return {key: value for key, value in section.items() if key != BLOCK_TYPE}
