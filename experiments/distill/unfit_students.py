"""Students that cannot be made of a teacher, or would not be trained, refused before its weights are loaded."""

from lab.core.errors import ConfigError
from lab.core.mixers.spec import mixer_like
from lab.core.models.config import ModelConfig
from lab.core.models.folder import Precision
from lab.core.models.spec import build
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.loss_mask import LossMask
from lab.experiments.distill.placement import softmax_layers
from lab.experiments.distill.stage_graph import StageNode, nodes, students


def refuse_unfit(config: DistillConfig, architecture: ModelConfig) -> None:
    """Refuse students that do not fit this teacher.

    Raises:
        ConfigError: naming the key.
    """
    is_hd = architecture.vision is not None and architecture.vision.reads_every_patch
    layers = build(architecture).mixer_layers()
    for node in nodes(students(config)):
        softmax_layers(node.student.hybrid, len(layers))
        for layer in layers:
            mixer_like(layer.layer.mixer, node.student.mixer, where=f"the teacher's {layer.name}")
        _refuse_rounded(config, node)
        if node.recipe is not None and node.stage < 3 and is_hd and node.recipe.loss_mask is LossMask.answers:
            raise ConfigError(
                f"stage_{node.stage}.loss_mask=answers: with pixel shuffle `post` the first layers read patches, among "
                "which answers have no place; choose non_padding or all"
            )


def _refuse_rounded(config: DistillConfig, node: StageNode) -> None:
    """Refuse to train in bfloat16, which rounds steps of a usual size away: every weight would stay as it is."""
    if node.recipe is not None and config.teacher.precision is Precision.bfloat16 and not node.recipe.autocast:
        raise ConfigError(
            f"stage_{node.stage}.autocast=false beside teacher.precision=bfloat16: the steps of a training vanish in "
            f"bfloat16; give stage_{node.stage}.autocast=true, which trains in float32, or teacher.precision=float32"
        )
