"""AdamW with its parameter groups, clipping, and the warmup-stable-decay schedule."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW

from lab.core.errors import InputError
from lab.core.parallel.layout import whole


def adamw(
    parameters: Mapping[str, Tensor], *, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) with weight decay on matrices only.

    Zero is not a neutral value for a norm weight, a decay rate (`A_log`) or a step size (`dt_bias`), and biases are
    customarily excluded: exactly these have fewer than two axes. A step reads and writes each number once (`fused`):
    torch's other loops, which pass over all of them eight times, take three to five times as long on a CPU.

    Args:
        parameters: the trained tensors, by name.
        learning_rate: the peak of the schedule.
        weight_decay: of the matrices.
        betas: decay rates of the two running means.

    Raises:
        InputError: if `parameters` is empty.
    """
    if not parameters:
        raise InputError("parameters is empty: there is nothing to train; give at least one tensor")
    matrices = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    others = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=betas, fused=True)


def clip_gradients(parameters: Sequence[Tensor], longest: float) -> float:
    """Scale all gradients together so that they are not longer than `longest`; those that are not stay as they are.

    Returns:
        Their Euclidean norm over all tensors before that; those without a gradient do not count.
    """
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    found = float(whole(norm))
    # torch multiplies by 1 there, which is a pass over all gradients
    if not found <= longest:
        clip_grads_with_norm_(parameters, longest, norm)
    return found


def warmup_stable_decay(step: int, *, steps: int, warmup: float, decay: float) -> float:
    """The learning rate of optimizer step `step` (from 0) as a fraction of the peak.

    It rises linearly over the first `warmup` of the steps, stays at 1, and falls linearly over the last `decay` of them
    to zero one step after the last (Hu et al., arXiv 2404.06395, with a linear decay).
    """
    num_warmup, num_decay = round(warmup * steps), round(decay * steps)
    rising = (step + 1) / num_warmup if step < num_warmup else 1.0
    falling = (steps - step) / num_decay if step >= steps - num_decay else 1.0
    return min(rising, falling)
