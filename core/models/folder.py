"""What a path with a model holds: `config.json` is read once, weights and tokenizer when they are asked for."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.data.prompt_format import TURN_END
from lab.core.data.tokenizers import load_tokenizer
from lab.core.errors import CheckpointError, ConfigError, InputError
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.spec import mixer_like
from lab.core.models.checkpoint import CONFIG, StoredTensors, load_weights
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.gguf import read_gguf_config, read_gguf_ends, read_gguf_tensors
from lab.core.models.hf_config import Json, load_json
from lab.core.models.parts import load_parts, refuse_unfit
from lab.core.models.spec import FamilySpec, build, family_of, family_of_type, key_map, model_types
from lab.core.models.student_format import StudentLayout, is_student_json
from lab.core.models.tensor_names import KeyMap
from lab.core.resources import refuse_too_large
from lab.core.runs.sums import SUMS, check_files
from lab.core.stock.layout import EXACT, STUDENT, layout_in, read_exact
from lab.core.tokenizer import Tokenizer

GENERATION_CONFIG = "generation_config.json"
# key of an exported config.json: how prompts were written in training
PROMPT = "prompt"
# weights of any framework: none of them are the student's
_KINDS = (
    *("safetensors", "bin", "pt", "pth", "ckpt", "pkl", "pickle", "npz", "npy", "gguf", "ggml", "h5", "keras", "pb"),
    *("msgpack", "ot", "onnx", "onnx_data", "onnx.data", "tflite", "mlmodel", "engine", "pdparams", "llamafile"),
)
_WEIGHTS = tuple(f".{kind}{end}" for kind in _KINDS for end in ("", ".index.json", ".index", ".meta"))
# of a checkpoint of TensorFlow
_WEIGHTS_WITHIN = ".ckpt.data-"
# says of the teacher what is not true of a student
_CARD = "README.md"


class Precision(Enum):
    """The dtype of a model's weights."""

    bfloat16 = "bfloat16"
    float32 = "float32"
    float64 = "float64"

    @property
    def dtype(self) -> torch.dtype:
        """As torch calls it."""
        return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[self.value]


class Kind(Enum):
    """What a `ModelFolder` holds."""

    teacher = "teacher"
    """A public checkpoint."""
    student = "student"
    """A linear or hybrid student in an exported layout."""
    gguf = "gguf"
    """A public checkpoint in a GGUF file."""


class ModelFolder:
    """A checkpoint folder, or a GGUF file."""

    def __init__(self, path: Path) -> None:
        """Read config.json.

        Raises:
            CheckpointError: if it, or the GGUF file, is missing or damaged.
        """
        self.path = path
        self._is_stock = False
        if path.suffix == ".gguf":
            if not path.is_file():
                raise CheckpointError(f"{path} is missing; give a GGUF file")
            self.kind = Kind.gguf
            return
        self._content = load_json(path / CONFIG)
        stock = self._content.get(STUDENT)
        self._is_stock = isinstance(stock, dict)
        # of a student: what a folder in our own layout holds
        self._student: Json = stock if isinstance(stock, dict) else self._content
        self.kind = Kind.student if self._is_stock or is_student_json(self._content) else Kind.teacher

    @classmethod
    def find(cls, path: Path) -> "ModelFolder | None":
        """The model at a path; None if it is neither a GGUF file nor a folder whose config.json names a model_type.

        Raises:
            CheckpointError: if the file is damaged.
        """
        if path.suffix == ".gguf":
            return cls(path)
        if not (path / CONFIG).is_file():
            return None
        folder = cls(path)
        return folder if "model_type" in folder.content else None

    @property
    def content(self) -> Json:
        """What config.json holds; of a GGUF file, the one that transformers makes of it."""
        return read_gguf_config(self.path) if self.kind is Kind.gguf else self._content

    @property
    def family(self) -> FamilySpec:
        """The family of the model; for a student, the family of its teacher.

        Raises:
            ConfigError: for an architecture that is not implemented.
        """
        return family_of(self.architecture)

    @cached_property
    def architecture(self) -> ModelConfig:
        """The architecture; a student's is its teacher's.

        Raises:
            ConfigError: for one that is not implemented, naming key and value.
        """
        with self._named():
            if self._layout is not None:
                return self._layout.architecture
            model_type = self.content.get("model_type")
            family = family_of_type(model_type)
            if family is None:
                raise ConfigError(f"model_type={model_type} is not implemented, only {', '.join(model_types())}")
            return family.read_folder(self.content, self.path)

    @property
    def mixers(self) -> list[str] | None:
        """The kind of the mixer of each layer of a student, in the order of computation; None for a teacher."""
        with self._named():
            return None if self._layout is None else list(self._layout.kinds)

    @property
    def precision(self) -> Precision:
        """The dtype that config.json names; float32 if it names none, or one that models cannot be loaded in.

        Where parts of the model have dtypes of their own, the widest.

        Raises:
            ConfigError: if a dtype is no name.
        """
        content = {} if self.kind is Kind.gguf else self.content
        key = "torch_dtype" if content.get("torch_dtype") else "dtype"
        named = content.get(key)
        found = []
        for each in named.values() if isinstance(named, dict) else [named or Precision.float32.value]:
            if not isinstance(each, str):
                raise ConfigError(f"{self.path / CONFIG}: {key}={named} must be the name of a dtype, such as bfloat16")
            found.append(Precision[each] if each in Precision.__members__ else Precision.float32)
        return max(found, key=lambda precision: precision.dtype.itemsize, default=Precision.float32)

    @property
    def prompt(self) -> Mapping[str, Any]:
        """How prompts were written in training, as an exported config.json says; empty elsewhere."""
        kept = {} if self.kind is Kind.gguf else self._student.get(PROMPT, {})
        return kept if isinstance(kept, dict) else {PROMPT: kept}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the folder or the GGUF file.

        Raises:
            BackendError: if a GGUF file cannot be read without packages that are missing.
            CheckpointError: if there is none, or it is damaged.
        """
        self._check(_is_no_weights)
        return load_tokenizer(self.path)

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The end of a turn, and what config.json and generation_config.json, or a GGUF file, call the end.

        Files beside a GGUF file may be another model's.

        Raises:
            ConfigError: if what a file calls the end is no id.
        """
        found: set[int] = set()
        # the tokenizer of a text model need not know turns
        with contextlib.suppress(InputError):
            found.add(tokenizer.id_of(TURN_END))
        if self.kind is Kind.gguf:
            end_of_text = set() if tokenizer.eos_id is None else {tokenizer.eos_id}
            return frozenset(found | end_of_text | read_gguf_ends(self.path))
        path = self.path / GENERATION_CONFIG
        files = {GENERATION_CONFIG: load_json(path) if path.is_file() else {}, CONFIG: self.content}
        for name, content in files.items():
            for section in (content, *(value for value in content.values() if isinstance(value, dict))):
                end = section.get("eos_token_id")
                for index in end if isinstance(end, list) else [] if end is None else [end]:
                    if not isinstance(index, int) or isinstance(index, bool):
                        raise ConfigError(f"{self.path / name}: eos_token_id={end} must be an id or a list of ids")
                    found.add(index)
        return frozenset(found)

    def load(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype,
        options: MixerOptions | None = None,
        keeps_wider: bool = False,
    ) -> LanguageModel:
        """The model, frozen and in evaluation mode.

        Args:
            device: of the weights.
            dtype: of the weights.
            options: whose `kernels` compute a student's mixers; None for the best that can run.
            keeps_wider: whether weights that are stored in a wider dtype keep it, as what is trained further does.

        Raises:
            BackendError: if an implementation that is asked for by name cannot run there.
            CheckpointError: for files that are missing, damaged or do not fit config.json.
            ConfigError: for an architecture that is not implemented, naming key and value, or weights that do not fit
                into memory.
        """
        self._check()
        model = build(self.architecture, dtype=dtype)
        if device.type == "cpu":
            num_bytes = sum(parameter.nbytes for parameter in model.parameters())
            refuse_too_large(num_bytes, f"{self.path} in {dtype}", "choose a smaller model, or precision=bfloat16")
        if self._layout is not None:
            for layer, ours in zip(model.mixer_layers(), self._layout.options(options), strict=True):
                if ours is not None:
                    layer.layer.mixer = mixer_like(layer.layer.mixer, ours, where=f"{self.path}: {layer.name}")
        keys = self._keys(model)
        stored, source = self._tensors(), self.path
        load_weights(model, keys, stored, source=source, device=device, dtype=dtype, keeps_wider=keeps_wider)
        if self._is_stock and (self.path / EXACT).exists():
            read_exact(self.path / EXACT, model)
        model.choose_backends()
        return model.requires_grad_(False).eval()

    def unloaded(self, *, dtype: torch.dtype) -> LanguageModel:
        """The model of a public checkpoint without its numbers, on the meta device, frozen and in evaluation mode.

        Raises:
            CheckpointError: for files that are missing, cut off or do not fit config.json, as far as headers say.
            ConfigError: for an architecture that is not implemented, naming key and value.
        """
        self._check()
        model = build(self.architecture, dtype=dtype)
        refuse_unfit(model, self._keys(model), self._stored(), source=self.path)
        return model.requires_grad_(False).eval()

    def fill(self, model: LanguageModel) -> None:
        """Give a model of `unloaded` its numbers, once its tensors have memory: of those that are cut, this process's.

        All processes that hold parts call this.

        Raises:
            CheckpointError: for numbers that are not finite, and files that are gone or damaged by now.
        """
        load_parts(model, self._keys(model), self._stored(), source=self.path)

    def held(
        self, model: LanguageModel, state: Mapping[str, Tensor], *, stored_as: Precision | None = None
    ) -> Mapping[str, Tensor]:
        """What the folder would give back for tensors of the model in it: zeros for what nothing reads.

        Args:
            model: in the folder.
            state: tensors by their names in it.
            stored_as: the precision to which the folder rounds them; None for the one that they have.
        """
        keys = self._keys(model)
        public = keys.to_public(state)

        def read(name: str) -> Tensor:
            tensor = public[name]
            return tensor if stored_as is None else tensor.to(stored_as.dtype).to(tensor.dtype)

        return keys.to_ours(read)

    def other_files(self) -> list[Path]:
        """The files that belong to a student too: tokenizer, licence and so on; none beside a GGUF file.

        Neither weights of any framework nor the model card.

        Raises:
            CheckpointError: if one is damaged, or a link that leads elsewhere: a copy would hold whatever is there.
        """
        if self.kind is Kind.gguf:
            return []
        self._check(_is_no_weights)
        files = [
            path
            for path in sorted(self.path.iterdir())
            if path.is_file() and path.name not in (CONFIG, SUMS, _CARD) and _is_no_weights(path.name)
        ]
        whole = self.path.resolve()
        # the cache of Hugging Face keeps snapshots/COMMIT/FILE as links to blobs/DIGEST
        homes = (whole, whole.parent.parent / "blobs") if whole.parent.name == "snapshots" else (whole,)
        for path in files:
            if not any(path.resolve().is_relative_to(home) for home in homes):
                raise CheckpointError(
                    f"{path} is a link to {path.resolve()}, outside of the checkpoint, which would be copied; "
                    "put the file in its place, or remove it"
                )
        return files

    @cached_property
    def _layout(self) -> StudentLayout | None:
        return StudentLayout.read(self._student, self.path) if self.kind is Kind.student else None

    def _keys(self, model: LanguageModel) -> KeyMap:
        with self._named():
            return layout_in(self._content, model).keys() if self._is_stock else key_map(model)

    def _tensors(self) -> Mapping[str, Tensor]:
        return read_gguf_tensors(self.path) if self.kind is Kind.gguf else self._stored()

    def _stored(self) -> StoredTensors:
        return StoredTensors(self.path, self.family.renamed)

    def _check(self, only: Callable[[str], bool] = lambda name: True) -> None:
        """Refuse a folder with files that are not as its SHA256SUMS says."""
        if self.kind is not Kind.gguf:
            check_files(self.path, hint="copy or export the folder again", error=CheckpointError, only=only)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file in errors about config.json."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None


def _is_no_weights(name: str) -> bool:
    return not name.lower().endswith(_WEIGHTS) and _WEIGHTS_WITHIN not in name.lower()
