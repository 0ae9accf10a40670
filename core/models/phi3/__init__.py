"""Phi-3, Phi-3.5-mini and Phi-4-mini: Llama with packed projections; longrope, and heads that turn in part."""

from lab.core.models.phi3.config import Phi3Config, read, write
from lab.core.models.phi3.tensor_names import names
from lab.core.models.spec import FamilySpec
from lab.core.models.text_model import TextModel

SPEC = FamilySpec(
    name="phi3",
    config=Phi3Config,
    model_types=("phi3",),
    read=read,
    write=write,
    model=TextModel,
    names=names,
)
