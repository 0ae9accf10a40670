"""The config.json of students: mmMamba's released layout, and the same idea for every other family and mixer.

config.json says in `layers_block_type` which layer of a stack is which mixer, `mha` for softmax attention. In mmMamba's
release of a HoVLE student, a Mamba-2 layer has one fused projection, `wvkqgdt`, and keeps A_log and dt_bias; an
attention has its own tensors, bit for bit the teacher's.

No release of another family, or with another mixer, is known. Their folders are the teacher's with the mixer's tensors
in the attention's place; `layers_block_type` names the mixer, and `mixer_options` holds the options that are not its
defaults. Their model_type, `<teacher's>_<mixer>`, is one that transformers refuses: it would otherwise draw the missing
projections at random.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.base import Mixer
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.spec import mixer_spec, mixers
from lab.core.models.checkpoint import CONFIG, MAX_SHARD_BYTES, write_checkpoint
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.hf_config import Json
from lab.core.models.spec import FamilySpec, families, family_of, key_map, model_types

if TYPE_CHECKING:
    from lab.core.models.folder import ModelFolder

BLOCK_TYPE = "layers_block_type"
# key of config.json: options of the converted layers that differ from the defaults of their mixer
MIXER_OPTIONS = "mixer_options"
_ATTENTION = "mha"


@dataclass(frozen=True, slots=True)
class StudentLayout:
    """What the config.json of a student says.

    Attributes:
        architecture: of its teacher.
        kinds: the mixer of each layer, through all stacks; `mha` for softmax attention.
        changed: options of the mixers that are not the defaults.
    """

    architecture: ModelConfig
    kinds: tuple[str, ...]
    changed: Mapping[str, Any]

    @classmethod
    def read(cls, content: Json, folder: Path) -> "StudentLayout":
        """The layout in a config.json.

        Args:
            content: of the file.
            folder: that it is in.

        Raises:
            CheckpointError: if a file that it needs besides is missing or damaged.
            ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
        """
        known = _student_types()
        model_type = content.get("model_type")
        if not isinstance(model_type, str) or model_type not in known:
            raise ConfigError(
                f"model_type={model_type} is not implemented for students, only TEACHER_MIXER with a teacher of "
                f"{', '.join(model_types())} and a mixer of {', '.join((*mixers(), _ATTENTION))}"
            )
        family, teacher_type = known[model_type]
        changed = content.get(MIXER_OPTIONS, {})
        if not isinstance(changed, dict):
            raise ConfigError(f"{MIXER_OPTIONS}={changed} must be an object of options and values")
        architecture = family.read_folder(_as_teacher(content, family, teacher_type), folder)
        kinds: list[str] = []
        for name, decoder in zip(family.sections, architecture.decoders, strict=True):
            kinds += _read_kinds(content, name, decoder.num_layers)
        return cls(architecture, tuple(kinds), changed)

    def options(self, given: MixerOptions | None) -> list[MixerOptions | None]:
        """The options of each layer's mixer, None for softmax attention; kernels as in `given` if that is of its kind.

        Raises:
            ConfigError: if the mixer does not have the options in the file.
        """
        every: list[MixerOptions | None] = []
        for kind in self.kinds:
            if kind == _ATTENTION:
                every.append(None)
                continue
            try:
                ours = mixer_spec(kind).options(**self.changed)
            except (TypeError, ConfigError) as error:
                raise ConfigError(f"{MIXER_OPTIONS}={self.changed} is not for {kind}: {error}") from None
            if given is not None and given.kind == kind:
                ours.kernels = given.kernels
            every.append(ours)
        return every


def is_student_json(content: Json) -> bool:
    """Whether a config.json is that of a student."""
    return any(BLOCK_TYPE in section for section in (content, *content.values()) if isinstance(section, dict))


def block_type(mixer: Mixer) -> str:
    """What `layers_block_type` calls a mixer."""
    return _ATTENTION if mixer.is_attention else mixer.kind


def write_student(
    folder: Path,
    student: LanguageModel,
    *,
    teacher: "ModelFolder | None",
    write_more: Callable[[Path], None] | None = None,
    more: Json | None = None,
    replace: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a student into a folder that is complete or absent.

    Args:
        folder: must not exist or be empty, unless `replace`.
        student: linear or hybrid; one of a family that mmMamba released a student of is written in that layout if its
            layers are mmMamba's.
        teacher: the folder whose config.json is taken over with the student's changes, and whose other files
            (tokenizer and so on) are copied; None for a config.json that describes the architecture alone.
        write_more: as of `write_checkpoint`.
        more: other keys of config.json.
        replace: whether a folder that is in use is replaced.
        max_shard_bytes: above it the tensors go into several files, with an index.

    Raises:
        CheckpointError: if the folder is in use, or the teacher's config.json is another model's.
        ConfigError: if the layout has no place for the student.
        RunError: if the disk is full or cannot be written.
    """
    files: list[Path] = []
    if teacher is None:
        content: Json = family_of(student.config).config_json(student.config)
    else:
        if folder.resolve() == teacher.path.resolve():
            raise CheckpointError(f"{folder} is the teacher's folder; give another one to the student")
        if teacher.architecture != student.config:
            raise CheckpointError(
                f"{teacher.path / CONFIG} describes another model than the student's teacher; give its folder"
            )
        content = teacher.content
        files = teacher.other_files()
    write_checkpoint(
        folder,
        key_map(student).to_public(student.state_dict()),
        {**student_json(content, student), **(more or {})},
        carried=files,
        write_more=write_more,
        replace=replace,
        max_shard_bytes=max_shard_bytes,
    )


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


def student_json(content: Json, student: LanguageModel) -> dict[str, Any]:
    """The config.json of a student, from its teacher's.

    Raises:
        ConfigError: if its layers are of several mixers.
    """
    ours: dict[str, Any] = json.loads(json.dumps(content))
    family, options = family_of(student.config), _mixer_of(student)
    is_released = options is None or (mixer_spec(options.kind).in_mmmamba and not options.changed())
    if family.released_student is not None and is_released:
        for name, entries in family.released_student.items():
            _section(ours, name).update(entries)
    else:
        ours.pop("auto_map", None)
        kind = _ATTENTION if options is None else options.kind
        ours |= {"model_type": f"{ours['model_type']}_{kind}", "architectures": []}
    if options is not None and options.changed():
        ours[MIXER_OPTIONS] = options.changed()
    ours["torch_dtype"] = str(student.dtype).removeprefix("torch.")
    types = [block_type(layer.layer.mixer) for layer in student.mixer_layers()]
    for name, decoder in zip(family.sections, student.config.decoders, strict=True):
        _section(ours, name)[BLOCK_TYPE], types = types[: decoder.num_layers], types[decoder.num_layers :]
    return ours


def _student_types() -> dict[object, tuple[FamilySpec, str]]:
    """The family and the teacher's model_type by the model_type of a student."""
    known: dict[object, tuple[FamilySpec, str]] = {}
    for family in families().values():
        for teacher_type in family.model_types:
            known |= {f"{teacher_type}_{kind}": (family, teacher_type) for kind in (*mixers(), _ATTENTION)}
            if family.released_student is not None:
                known[family.released_student[""]["model_type"]] = (family, teacher_type)
    return known


def _as_teacher(content: Json, family: FamilySpec, teacher_type: str) -> Json:
    """A student's config.json without what makes it a student's."""
    sections = {
        name: _without_types(content[name]) for name in family.sections if name and isinstance(content.get(name), dict)
    }
    return {**_without_types(content), **sections, "model_type": teacher_type}


def _read_kinds(content: Json, name: str, num_layers: int) -> list[str]:
    """The kind of the mixer of every layer of one stack."""
    known = (*mixers(), _ATTENTION)
    key = f"{name}.{BLOCK_TYPE}" if name else BLOCK_TYPE
    types = _section(content, name).get(BLOCK_TYPE)
    if not isinstance(types, list) or len(types) != num_layers:
        raise ConfigError(f"{key}={types} must be a list of {num_layers}, one for each layer")
    for i, kind in enumerate(types):
        if kind not in known:
            raise ConfigError(f"{key}[{i}]={kind} must be {' or '.join(known)}")
    return types


def _section(content: Json, name: str) -> Any:
    return content[name] if name else content


def _without_types(section: Json) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != BLOCK_TYPE}
