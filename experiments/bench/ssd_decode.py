"""Cases of `lab bench ssd`: one decoding step, whose state is much larger than its other inputs.

It is memory-bound: a step must read and write the state once. That is timed too, as one in-place multiplication, and
its share of the machine's streaming bandwidth is given; the state of a small batch is in a cache, which is faster.
"""

# Letters: B batch, H heads, P head_dim, N state_dim; as many groups as heads.

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.runs.random_streams import Seeds
from lab.core.ssd.decode.step import step
from lab.experiments.bench.accuracy import TOLERANCE, Mode, largest_difference
from lab.experiments.bench.harness import Candidate, Case, Clock, Missing
from lab.experiments.bench.machine import load_optional
from lab.experiments.bench.rates import MachinePeak, Work
from lab.experiments.bench.ssd_peers import BENCH_HINT, KERNELS, MAMBA_HINT, TRANSFORMERS, load_mamba_ssm
from lab.experiments.bench.ssd_problem import SsdSetting

# "Within 1.5 times the time that streaming the state once takes": streaming takes at least this share of ours.
_STREAMING_RATIO = 1 / 1.5


class Token(NamedTuple):
    """Inputs of one step, besides the state."""

    x: Float[Tensor, "B H P"]
    dt: Float[Tensor, "B H"]
    A: Float[Tensor, " H"]
    B: Float[Tensor, "B H N"]
    C: Float[Tensor, "B H N"]


def decode_case(setting: SsdSetting, clock: Clock, *, peak: MachinePeak | None = None, is_judged: bool) -> Case:
    """Ours against peers' steps and against streaming the state; the setting's `num_tokens` is not used."""
    initial, token = _draw(setting)
    exact = _exact_step(initial, token)
    # the token's vectors are a hundredth of its state
    work = Work(updated_bytes=2 * initial.nbytes)

    def candidate(name: str, run: Callable[[Tensor], Tensor]) -> Candidate:
        # each candidate updates its own state from step to step, so only the first step is compared
        state = initial.clone()
        return Candidate(
            name=name,
            run=lambda: (run(state), state),
            difference=lambda outputs: largest_difference(outputs, exact),
            tolerance=TOLERANCE[Mode.forward, setting.dtype],
            unit="of the largest",
            work=work,
        )

    out = torch.empty_like(token.x)
    others: list[Candidate | Missing] = [_streaming(initial, required_ratio=_STREAMING_RATIO if is_judged else None)]
    transformers = load_optional("transformers.models.mamba2.modeling_mamba2")
    if transformers is None or not hasattr(transformers, "mamba2_selective_state_update"):
        others.append(Missing(TRANSFORMERS, BENCH_HINT))
    else:
        others.append(
            candidate(TRANSFORMERS, _like_mamba(transformers.mamba2_selective_state_update.__wrapped__, token))
        )
    if setting.device == "cuda":
        kernels = load_mamba_ssm("mamba_ssm.ops.triton.selective_state_update")
        if kernels is None:
            others.append(Missing(KERNELS, MAMBA_HINT))
        else:
            others.append(candidate(KERNELS, _like_mamba(kernels.selective_state_update, token)))
    return Case(
        name=f"decoding step, batch {setting.num_batch}",
        setting=(
            f"H = {setting.num_heads}, P = {setting.head_dim}, N = {setting.state_dim}, float32 state of "
            f"{initial.nbytes / 1e6:.3g} MB, {setting.device}"
        ),
        ours=candidate("lab step", lambda state: step(state, *token, out=out)),
        others=others,
        peak=peak,
        clock=clock,
    )


def _draw(setting: SsdSetting) -> tuple[Float[Tensor, "B H P N"], Token]:
    generator = Seeds(0).torch("ssd/decode", setting.num_batch)
    heads = (setting.num_batch, setting.num_heads)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(setting.device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(setting.device)

    state = normal(*heads, setting.head_dim, setting.state_dim)
    return state, Token(
        x=normal(*heads, setting.head_dim).to(setting.dtype),
        dt=0.001 * 100 ** uniform(*heads),
        A=-1 - 15 * uniform(setting.num_heads),
        B=normal(*heads, setting.state_dim).to(setting.dtype),
        C=normal(*heads, setting.state_dim).to(setting.dtype),
    )


def _exact_step(state: Tensor, token: Token) -> Sequence[Tensor]:
    """Output and next state in float64."""
    x, dt, A, B, C = (tensor.double() for tensor in token)
    decay = torch.exp(dt * A)[..., None, None]
    following = decay * state.double() + (dt[..., None] * x)[..., None] * B[:, :, None, :]
    return (following @ C[..., None]).squeeze(-1), following


def _streaming(initial: Tensor, *, required_ratio: float | None) -> Candidate:
    state = initial.clone()
    return Candidate(
        name="the state read and written once",
        run=lambda: (state.mul_(1.0),),
        difference=lambda outputs: largest_difference(outputs, [initial.double()]),
        tolerance=0.0,
        unit="of the largest",
        required_ratio=required_ratio,
        work=Work(updated_bytes=2 * initial.nbytes),
    )


def _like_mamba(update: Callable[..., Tensor], token: Token) -> Callable[[Tensor], Tensor]:
    """A call with mamba-ssm's arguments: steps and rates expanded to the state's shape, as its layer expands them."""
    x, dt, A, B, C = token
    head_dim, state_dim = x.shape[2], B.shape[2]
    steps = dt[..., None].expand(*dt.shape, head_dim)
    rates = A[:, None, None].expand(-1, head_dim, state_dim)
    return lambda state: update(state, x, steps, rates, B, C)
