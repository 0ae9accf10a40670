"""Students as checkpoint folders, out and in: mmMamba's released layout, and the same idea for text models.

config.json says in `layers_block_type` which layer of the embedding and of the language model is `mamba2` and which is
`mha`. A Mamba-2 layer has one fused projection, `wvkqgdt`, and keeps A_log and dt_bias; an attention has its own
tensors, bit for bit the teacher's.

No release of a text model, or with another mixer, is known. Their folders are the teacher's with the mixer's tensors in
the attention's place; `layers_block_type` names the mixer, and `mixer_options` holds the options that are not its
defaults. Their model_type, `<teacher's>_<mixer>`, is one that transformers refuses: it would otherwise draw the missing
projections at random.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.base import Mixer
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.spec import mixer_like, mixer_spec, mixers
from lab.core.models.checkpoint import CONFIG, MAX_SHARD_BYTES, StoredTensors, load_weights, write_checkpoint
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.families import build, key_map, read_architecture
from lab.core.models.hf_config import Json, hovle_json, llama_json, load_json, read_hovle, read_llama
from lab.core.models.hovle import Hovle
from lab.core.models.llama import Llama

BLOCK_TYPE = "layers_block_type"
# key of config.json: options of the converted layers that differ from the defaults of their mixer
MIXER_OPTIONS = "mixer_options"
_ATTENTION = "mha"

# objects of config.json that describe a stack of layers; a text model has one stack, described by the file itself
_SECTIONS = ("embedding_config", "llm_config")
_WHOLE = ""
# model_types of text teachers; a student's is this and its mixer, as in `llama_mamba2`
_TEXT_TYPES = ("llama", "qwen2")

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


def block_type(mixer: Mixer) -> str:
    """What `layers_block_type` calls a mixer."""
    return _ATTENTION if mixer.is_attention else mixer.kind


def load_student(
    folder: Path, *, device: torch.device, dtype: torch.dtype, options: MixerOptions | None = None
) -> LanguageModel:
    """A linear or hybrid student from its released layout, frozen and in evaluation mode.

    Args:
        folder: config.json and safetensors, as `write_student` or mmMamba's authors wrote them.
        device: of the weights.
        dtype: of the weights.
        options: whose `kernels` compute the mixers; None for the best that can run.

    Raises:
        BackendError: if an implementation that is asked for by name cannot run there.
        CheckpointError: for files that are missing, damaged or do not fit config.json.
        ConfigError: for an architecture that is not implemented, naming key and value.
    """
    content = load_json(folder / CONFIG)
    try:
        model = build(_architecture(content), dtype=dtype)
        kinds = _kinds(content)
        changed = _changed_options(content)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from None
    for layer, kind in zip(model.mixer_layers(), kinds, strict=True):
        if kind == _ATTENTION:
            continue
        try:
            ours = mixer_spec(kind).options(**changed)
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"{folder / CONFIG}: {MIXER_OPTIONS}={changed} is not for {kind}: {error}") from None
        if options is not None and options.kind == kind:
            ours.kernels = options.kernels
        layer.layer.mixer = mixer_like(layer.layer.mixer, ours, where=f"{folder}: {layer.name}")
    load_weights(model, key_map(model), StoredTensors(folder), source=folder, device=device, dtype=dtype)
    model.choose_backends()
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
        student: linear or hybrid; a HoVLE student whose layers are mmMamba's is written in the layout of its release.
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
    _mixer_of(student)
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


def _mixer_of(student: LanguageModel) -> MixerOptions | None:
    """The options that all converted layers have; None where every layer is softmax attention.

    Raises:
        ConfigError: if layers differ: the layout describes one mixer.
    """
    every = [layer.layer.mixer.options for layer in student.converted_layers()]
    found = [options for options in every if options is not None]
    for options in found[1:]:
        if (options.kind, options.changed()) != (found[0].kind, found[0].changed()):
            raise ConfigError(
                f"the student has layers of {found[0].kind} {found[0].changed()} and of {options.kind} "
                f"{options.changed()}, but a folder describes one mixer; keep this student as the checkpoint of its run"
            )
    return found[0] if found else None


def _student_json(content: Json, student: Hovle | Llama) -> dict[str, Any]:
    ours: dict[str, Any] = json.loads(json.dumps(content))
    options = _mixer_of(student)
    is_released = options is None or (mixer_spec(options.kind).in_mmmamba and not options.changed())
    if isinstance(student, Hovle) and is_released:
        for name, entries in _RELEASED.items():
            (ours[name] if name else ours).update(entries)
    else:
        ours.pop("auto_map", None)
        kind = "mamba2" if options is None else options.kind
        ours |= {"model_type": f"{ours['model_type']}_{kind}", "architectures": []}
    if options is not None and options.changed():
        ours[MIXER_OPTIONS] = options.changed()
    stacks = [student.embedding.layers, student.llm.layers] if isinstance(student, Hovle) else [student.llm.layers]
    ours["torch_dtype"] = str(student.llm.norm.weight.dtype).removeprefix("torch.")
    for section, layers in zip(_sections(ours), stacks, strict=True):
        section[BLOCK_TYPE] = [block_type(layer.mixer) for layer in layers]
    return ours


def _changed_options(content: Json) -> dict[str, Any]:
    changed = content.get(MIXER_OPTIONS, {})
    if not isinstance(changed, dict):
        raise ConfigError(f"{MIXER_OPTIONS}={changed} must be an object of options and values")
    return changed


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
    teachers = {f"{teacher}_{kind}": teacher for teacher in _TEXT_TYPES for kind in mixers()}
    model_type = content.get("model_type")
    if model_type not in teachers:
        raise ConfigError(f"model_type={model_type} is no student of a text model, only {', '.join(teachers)} are")
    return read_llama({**_without_types(content), "model_type": teachers[model_type]})


def _kinds(content: Json) -> list[str]:
    """The kind of every layer's mixer, through the embedding first."""
    known = (*mixers(), _ATTENTION)
    kinds: list[str] = []
    for name, section in zip(_names(content), _sections(content), strict=True):
        key = f"{name}.{BLOCK_TYPE}" if name else BLOCK_TYPE
        num_layers, types = section["num_hidden_layers"], section.get(BLOCK_TYPE)
        if not isinstance(types, list) or len(types) != num_layers:
            raise ConfigError(f"{key}={types} must be a list of {num_layers}, one for each layer")
        for i, kind in enumerate(types):
            if kind not in known:
                raise ConfigError(f"{key}[{i}]={kind} must be {' or '.join(known)}")
        kinds += types
    return kinds


def _without_types(section: Json) -> Mapping[str, Any]:
    return {key: value for key, value in section.items() if key != BLOCK_TYPE}
