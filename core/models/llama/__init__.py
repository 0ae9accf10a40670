"""Llama, SmolLM2 and what else is built like them."""

from lab.core.models.llama.config import LlamaConfig, read, write
from lab.core.models.spec import FamilySpec
from lab.core.models.tensor_names import text_names
from lab.core.models.text_model import TextModel

SPEC = FamilySpec(
    name="llama",
    config=LlamaConfig,
    model_types=("llama",),
    read=read,
    write=write,
    model=TextModel,
    names=text_names,
)
