"""HoVLE (arXiv 2412.16158), a vision-language model without a vision encoder, and mmMamba's students of it."""

from lab.core.models.hovle.config import HovleConfig, read, write
from lab.core.models.hovle.model import Hovle
from lab.core.models.hovle.stock_vision import stock_vision
from lab.core.models.hovle.tensor_names import names
from lab.core.models.spec import FamilySpec

SPEC = FamilySpec(
    name="hovle",
    config=HovleConfig,
    model_types=("internvl_chat",),
    read=read,
    write=write,
    model=Hovle,
    names=names,
    sections=("embedding_config", "llm_config"),
    stock_vision=stock_vision,
    # how transformers finds the release's modelling files, which a user may put beside the weights; never run here
    released_student={
        "": {
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
    },
)
