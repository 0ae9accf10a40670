"""`lab bench ssd`: the state-space operator on every backend that can run here, and its peers.

In order: the best chunk size of each peer, the headline's forward and backward, growth with length, the length from
which it is faster than softmax attention, one decoding step, and peak memory.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lab.experiments.bench.accuracy import Mode
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Case, Row
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.rates import MachinePeak
from lab.experiments.bench.shares import share_findings
from lab.experiments.bench.ssd_attention import ATTENTION
from lab.experiments.bench.ssd_cases import SsdCases, clock_for
from lab.experiments.bench.ssd_decode import decode_case
from lab.experiments.bench.ssd_figures import Measured, draw_lengths
from lab.experiments.bench.ssd_lengths import crossover_length, growth_exponent
from lab.experiments.bench.ssd_memory import OURS, Peak, peak_memory
from lab.experiments.bench.ssd_problem import SsdSetting

DISTRIBUTIONS = ("numpy", "torch", "transformers", "mamba-ssm", "triton", "fla-core", "einops")

# Requirements at full size on a CPU, besides ratios.
_PEAK_SHARE = 0.7
_EXPONENT = 1.05
_CROSSOVER_TOKENS = {Mode.forward: 300, Mode.backward: 512}
_MEMORY_SHARE = {Mode.forward: 0.15, Mode.backward: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of everything measured, in tokens unless stated otherwise.

    Attributes:
        num_heads: H.
        head_dim: P.
        state_dim: N.
        search: length for choosing chunk sizes.
        headline: the main length.
        growth: lengths of the growth figure, including the headline, which is above `peers_up_to`.
        growth_from: shortest length in the fit of the exponent.
        peers_up_to: longest length at which peers are timed, apart from the headline.
        attention_up_to: longest length at which attention is timed.
        overtaking: lengths at which ours is compared with attention.
        memory: length for the processes that measure memory; ours is also measured at the headline. None: only ours, at
            the headline.
        decode_batches: batch sizes of the decoding step.
        is_judged: whether results are checked against requirements.
    """

    num_heads: int
    head_dim: int
    state_dim: int
    search: int
    headline: int
    growth: tuple[int, ...]
    growth_from: int
    peers_up_to: int
    attention_up_to: int
    overtaking: tuple[int, ...]
    memory: int | None
    decode_batches: tuple[int, ...]
    is_judged: bool


_FULL = Plan(
    num_heads=16,
    head_dim=128,
    state_dim=128,
    search=4096,
    headline=32_768,
    growth=(1024, 2048, 4096, 8192, 16_384, 32_768, 65_536),
    growth_from=4096,
    peers_up_to=16_384,
    attention_up_to=8192,
    overtaking=(64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 448, 512, 640, 768, 1024),
    memory=8192,
    decode_batches=(1, 16, 64),
    is_judged=True,
)
# attention is faster there, and ours has launch overhead: they meet at longer sequences
_CUDA = replace(_FULL, overtaking=(512, 1024, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384), is_judged=False)
_QUICK = Plan(
    num_heads=2,
    head_dim=16,
    state_dim=16,
    search=128,
    headline=256,
    growth=(64, 128, 256, 512),
    growth_from=128,
    peers_up_to=128,
    attention_up_to=256,
    overtaking=(32, 64, 128),
    memory=None,
    decode_batches=(1,),
    is_judged=False,
)


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Yield cases one by one, receive the rows of each, and conclude.

    On a CUDA device bfloat16 is timed, without requirements: the sizes were chosen for a CPU.
    """
    is_cuda = torch.cuda.is_available()
    plan = _QUICK if quick else _CUDA if is_cuda else _FULL
    setting = SsdSetting(
        num_tokens=plan.headline,
        num_heads=plan.num_heads,
        head_dim=plan.head_dim,
        state_dim=plan.state_dim,
        dtype=torch.bfloat16 if is_cuda else torch.float32,
        device="cuda" if is_cuda else "cpu",
    )
    peak = measure_peak(quick=quick, device=setting.device, dtype=setting.dtype)
    maker = SsdCases.find(setting, is_judged=plan.is_judged, peak=peak)
    maker = maker.with_best_chunks((yield maker.search(plan.search)))
    forward = yield maker.headline(Mode.forward, plan.headline)
    yield maker.headline(Mode.backward, plan.headline)
    in_turns = yield maker.growth(plan.growth)
    growth = {length: [replace(row, candidate=OURS)] for length, row in zip(plan.growth, in_turns, strict=True)}
    growth[plan.headline] += forward[1:]
    for length in plan.growth:
        if length <= plan.peers_up_to:
            rows = yield maker.length(length, has_attention=length <= plan.attention_up_to)
            growth[length] += rows[1:]
    overtaking: dict[Mode, dict[int, list[Row]]] = {}
    for mode in Mode:
        overtaking[mode] = {}
        for length in plan.overtaking:
            overtaking[mode][length] = yield maker.overtaking(mode, length)
    # as in decoding: with gradients enabled, every step would have to check whether any is needed
    with torch.no_grad():
        for num_batch in plan.decode_batches:
            batched = replace(setting, num_batch=num_batch)
            yield decode_case(batched, clock_for(setting.device), peak=peak, is_judged=plan.is_judged)
    peaks = _peaks(plan, setting, maker.chunk_sizes)
    return _conclude(plan, peak, forward, growth, overtaking, peaks, maker.chunk_sizes)


def _peaks(plan: Plan, setting: SsdSetting, chunk_sizes: Mapping[str, int]) -> list[Peak]:
    """Ours at the headline's length, then all candidates at the shorter one."""
    asked: list[tuple[str, int, int | None]] = [(OURS, plan.headline, None)]
    if plan.memory is not None:
        candidates = [(OURS, None), *chunk_sizes.items(), (ATTENTION, None)]
        asked += [(name, plan.memory, size) for name, size in candidates]
    return [
        peak_memory(name, replace(setting, num_tokens=num_tokens), size, mode)
        for mode in Mode
        for name, num_tokens, size in asked
    ]


def _conclude(
    plan: Plan,
    peak: MachinePeak,
    forward: Sequence[Row],
    growth: Mapping[int, Sequence[Row]],
    overtaking: Mapping[Mode, Mapping[int, Sequence[Row]]],
    peaks: Sequence[Peak],
    chunk_sizes: Mapping[str, int],
) -> Conclusion:
    exponents = _exponents(growth, plan.growth_from)
    crossovers = {mode: _crossover(rows) for mode, rows in overtaking.items()}
    lengths = f"{plan.growth_from:,} tokens on"
    findings = [
        *share_findings("forward", forward[0], peak, at_least=_PEAK_SHARE),
        *(
            Finding(
                name=f"growth of the forward's time, {name}",
                value=exponent,
                at_most=_EXPONENT if name == OURS else None,
                note=f"exponent of the length, least squares from {lengths}",
            )
            for name, exponent in exponents.items()
        ),
        *(
            Finding(
                name=f"overtakes attention, {mode}",
                value=crossover,
                unit="tokens",
                at_most=_CROSSOVER_TOKENS[mode],
                note=f"the last loss and the next length, of {', '.join(map(str, plan.overtaking))}",
            )
            for mode, crossover in crossovers.items()
        ),
        *(
            Finding(
                name=f"extra memory, {found.mode}, {found.num_tokens:,} tokens, {found.candidate}",
                value=found.share,
                at_most=_MEMORY_SHARE[found.mode] if found.candidate == OURS else None,
                note=found.failure or _memory_note(found),
            )
            for found in peaks
        ),
    ]
    if not plan.is_judged:
        findings = [replace(finding, at_least=None, at_most=None) for finding in findings]
    facts: dict[str, Any] = {
        "plan": asdict(plan),
        "chunk_sizes": dict(chunk_sizes),
        "peak_memory": [asdict(peak) for peak in peaks],
    }
    labels = {name: f"{name} (exponent {exponent:.2f})" for name, exponent in exponents.items()}
    return Conclusion(
        findings=findings,
        facts=facts,
        peak=peak,
        draw=partial(_draw, growth, labels, crossovers, overtaking),
    )


def _memory_note(peak: Peak) -> str:
    above, arguments = f"{peak.above_bytes / 1e6:,.0f} MB", f"{peak.arguments_bytes / 1e6:,.0f} MB"
    return f"share: {above} at the highest, above {arguments} of inputs and outputs"


def _exponents(growth: Mapping[int, Sequence[Row]], growth_from: int) -> dict[str, float]:
    """The exponent of each candidate timed at three or more lengths from `growth_from` on."""
    points: dict[str, list[tuple[int, float]]] = {}
    for length, rows in growth.items():
        for row in rows:
            if length >= growth_from and row.median_s is not None:
                points.setdefault(row.candidate, []).append((length, row.median_s))
    return {
        name: growth_exponent([length for length, _ in found], [median_s for _, median_s in found])
        for name, found in points.items()
        if len(found) >= 3
    }


def _crossover(rows: Mapping[int, Sequence[Row]]) -> float | None:
    ratios = {length: found[1].ratio for length, found in rows.items()}
    compared = {length: ratio for length, ratio in ratios.items() if ratio is not None}
    return crossover_length(list(compared), list(compared.values())) if compared else None


def _draw(
    growth: Mapping[int, Sequence[Row]],
    labels: Mapping[str, str],
    crossovers: Mapping[Mode, float | None],
    overtaking: Mapping[Mode, Mapping[int, Sequence[Row]]],
    directory: Path,
    stem: str,
) -> None:
    draw_lengths(directory, f"{stem}_growth", [Measured(str(Mode.forward), growth)], labels)
    panels = [Measured(str(mode), rows, crossovers[mode]) for mode, rows in overtaking.items()]
    draw_lengths(directory, f"{stem}_crossover", panels, {})
