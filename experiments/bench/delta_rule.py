"""`lab bench delta-rule`: the gated delta rule against transformers' torch path.

In order: forward, forward and backward, one decoding step, and peak memory.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lab.core.delta_rule import gated_delta_rule
from lab.core.delta_rule.chunked import native
from lab.core.delta_rule.decode.step import step
from lab.core.operators.backends import operators, resolve
from lab.experiments.bench.accuracy import TOLERANCE, Mode, largest_difference
from lab.experiments.bench.delta_rule_memory import OURS, peak_memory
from lab.experiments.bench.delta_rule_problem import DeltaRuleProblem, DeltaRuleSetting, Inputs, Operator
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Missing, Row
from lab.experiments.bench.machine import load_optional
from lab.experiments.bench.operations import delta_rule_operations
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.rates import MachinePeak, Work
from lab.experiments.bench.ssd_cases import clock_for
from lab.experiments.bench.ssd_peers import BENCH_HINT, TRANSFORMERS

DISTRIBUTIONS = ("numpy", "torch", "transformers", "fla-core", "triton", "einops")

# Required ratio of transformers' time to ours, at full size on a CPU.
_REQUIRED_RATIOS = {Mode.forward: 3.0, Mode.backward: 2.5}
_MEMORY_SHARE = 1.0

_FULL = DeltaRuleSetting(num_tokens=32_768, num_heads=16, key_dim=128, value_dim=128)
_QUICK = DeltaRuleSetting(num_tokens=200, num_heads=2, key_dim=16, value_dim=16)
# transformers' backward copies the whole gradient of its outputs at every chunk: its time grows with the square of the
# length, and at the forward's length it would take a quarter of an hour
_BACKWARD_TOKENS = 8192
_DECODE_BATCHES = (1, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    """Transformers' functions; they apply attention's scale themselves."""

    chunked: Callable[..., tuple[Tensor, Tensor | None]]
    recurrent: Callable[..., tuple[Tensor, Tensor | None]]


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Yield cases one by one, receive the rows of each, and conclude.

    On a CUDA device bfloat16 is timed, without requirements: the sizes were chosen for a CPU.
    """
    is_cuda = torch.cuda.is_available()
    setting = _QUICK if quick else _FULL
    if is_cuda:
        setting = replace(setting, dtype=torch.bfloat16, device="cuda")
    is_judged = not quick and not is_cuda
    peer = _transformers()
    peak = measure_peak(quick=quick, device=setting.device, dtype=setting.dtype)
    for mode, num_tokens in ((Mode.forward, setting.num_tokens), (Mode.backward, _BACKWARD_TOKENS)):
        sized = replace(setting, num_tokens=min(num_tokens, setting.num_tokens))
        yield _sequence_case(DeltaRuleProblem(sized), mode, peer, peak=peak, is_judged=is_judged)
    # as in decoding: with gradients enabled, every step would have to check whether any is needed
    with torch.no_grad():
        for num_batch in _DECODE_BATCHES[:1] if quick else _DECODE_BATCHES:
            yield _decode_case(replace(setting, num_tokens=1, num_batch=num_batch), peer, peak=peak)
    memory = [peak_memory(setting, mode) for mode in Mode]
    findings = [
        Finding(
            name=f"extra memory, {found.mode}, {found.num_tokens:,} tokens",
            value=found.share,
            at_most=_MEMORY_SHARE if is_judged else None,
            note=found.failure
            or f"share: {found.above_bytes / 1e6:,.0f} MB at the highest, above {found.arguments_bytes / 1e6:,.0f} MB "
            "of inputs and outputs",
        )
        for found in memory
    ]
    facts: dict[str, Any] = {"peak_memory": [asdict(found) for found in memory]}
    return Conclusion(findings=findings, facts=facts, peak=peak)


def _transformers() -> _Peer | Missing:
    module = load_optional("transformers.models.qwen3_next.modeling_qwen3_next")
    if module is None:
        return Missing(TRANSFORMERS, BENCH_HINT)
    return _Peer(chunked=module.torch_chunk_gated_delta_rule, recurrent=module.torch_recurrent_gated_delta_rule)


def _sequence_case(
    problem: DeltaRuleProblem,
    mode: Mode,
    peer: _Peer | Missing,
    *,
    peak: MachinePeak | None = None,
    is_judged: bool,
) -> Case:
    setting = problem.setting
    device = torch.device(setting.device)
    chosen = resolve("delta_rule", "auto", device, setting.dtype).name
    usable = [backend for backend in operators()["delta_rule"] if backend.why_not(device, setting.dtype) is None]

    per_head = delta_rule_operations(
        setting.num_tokens, setting.key_dim, setting.value_dim, has_backward=mode is Mode.backward
    )
    total = per_head.times(setting.num_batch * setting.num_heads)
    is_compiled = setting.device == "cpu" and native.why_not() is None

    def candidate(name: str, operator: Operator, required_ratio: float | None = None) -> Candidate:
        return Candidate(
            name=name,
            run=problem.call(mode, operator),
            difference=partial(problem.difference, mode),
            tolerance=TOLERANCE[mode, setting.dtype],
            unit="of the largest",
            required_ratio=required_ratio,
            work=Work(
                dtype=str(setting.dtype).removeprefix("torch."),
                flops=total.paper,
                executed_flops=total.executed if is_compiled and name == OURS else None,
            ),
        )

    def ours(backend: str) -> Operator:
        return lambda inputs: gated_delta_rule(*inputs, scale=setting.scale, backend=backend).y

    others: list[Candidate | Missing] = [
        candidate(f"{OURS}, {backend.name}", ours(backend.name))
        for backend in usable
        # token by token, it takes minutes
        if backend.name not in (chosen, "reference")
    ]
    if isinstance(peer, Missing):
        others.append(peer)
    else:
        chunked = peer.chunked
        required = _REQUIRED_RATIOS[mode] if is_judged else None
        others.append(candidate(TRANSFORMERS, lambda inputs: chunked(*inputs)[0], required))
    return Case(
        name=str(mode),
        setting=str(setting),
        ours=candidate(OURS, ours("auto")),
        others=others,
        peak=peak,
        clock=clock_for(setting.device),
    )


def _decode_case(setting: DeltaRuleSetting, peer: _Peer | Missing, *, peak: MachinePeak | None = None) -> Case:
    """One token: ours, transformers' step, and reading and writing the state once, which every step must do."""
    token = DeltaRuleProblem(setting).inputs
    generator = torch.Generator().manual_seed(0)
    shape = (setting.num_batch, setting.num_heads, setting.value_dim, setting.key_dim)
    initial = torch.randn(shape, generator=generator).to(setting.device)
    exact = _exact_step(initial, token, setting.scale)
    parts = [tensor[:, 0].contiguous() for tensor in token]
    out = torch.empty_like(parts[2])
    # the token's vectors are a hundredth of its state
    work = Work(updated_bytes=2 * initial.nbytes)

    def candidate(name: str, run: Callable[[Tensor], tuple[Tensor, Tensor]], state: Tensor) -> Candidate:
        # each candidate updates its own state from step to step, so only the first step is compared
        return Candidate(
            name=name,
            run=lambda: run(state),
            difference=lambda outputs: largest_difference(outputs, exact),
            tolerance=TOLERANCE[Mode.forward, setting.dtype],
            unit="of the largest",
            work=work,
        )

    def ours(state: Tensor) -> tuple[Tensor, Tensor]:
        return step(state, *parts, scale=setting.scale, out=out), state

    streamed = initial.clone()
    others: list[Candidate | Missing] = [
        Candidate(
            name="the state read and written once",
            run=lambda: (streamed.mul_(1.0),),
            difference=lambda outputs: largest_difference(outputs, [initial.double()]),
            tolerance=0.0,
            unit="of the largest",
            work=work,
        )
    ]
    if isinstance(peer, Missing):
        others.append(peer)
    else:
        recurrent = peer.recurrent

        def theirs(state: Tensor) -> tuple[Tensor, Tensor]:
            y, following = recurrent(*token, initial_state=state, output_final_state=True)
            assert following is not None, "it was asked for"
            return y[:, 0], following.mT

        # theirs keeps a row for each key channel
        others.append(candidate(TRANSFORMERS, theirs, initial.mT.contiguous()))
    return Case(
        name=f"decoding step, batch {setting.num_batch}",
        setting=(
            f"H = {setting.num_heads}, K = {setting.key_dim}, V = {setting.value_dim}, float32 state of "
            f"{initial.nbytes / 1e6:.3g} MB, {setting.device}"
        ),
        ours=candidate("lab step", ours, initial.clone()),
        others=others,
        peak=peak,
        clock=clock_for(setting.device),
    )


def _exact_step(state: Tensor, token: Inputs, scale: float) -> Sequence[Tensor]:
    """Output and next state in float64."""
    wide = [tensor.double() for tensor in token]
    y, following = gated_delta_rule(*wide, scale=scale, initial_state=state.double(), backend="reference")
    return y[:, 0], following
