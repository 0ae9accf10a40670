"""Cases of `lab bench ssd` that compute whole sequences: ours, its peers, and softmax attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from lab.core.operators.backends import operators, resolve
from lab.core.ssd import ssd
from lab.core.ssd.chunked import native
from lab.experiments.bench.accuracy import TOLERANCE, Mode
from lab.experiments.bench.harness import Candidate, Case, Clock, Missing, Row, wall_clock
from lab.experiments.bench.machine import event_clock
from lab.experiments.bench.operations import scan_operations
from lab.experiments.bench.rates import MachinePeak, Work
from lab.experiments.bench.ssd_attention import attention_candidate
from lab.experiments.bench.ssd_memory import OURS
from lab.experiments.bench.ssd_peers import MINIMAL, PEERS, TRANSFORMERS, Peer, peer_names
from lab.experiments.bench.ssd_problem import Operator, SsdProblem, SsdSetting

# Required ratios of the others' times to ours, at the headline's size on a CPU.
_REQUIRED_RATIOS = {
    Mode.forward: {TRANSFORMERS: 6.0, MINIMAL: 5.5},
    Mode.backward: {TRANSFORMERS: 4.0},
}
_REQUIRED_ATTENTION_RATIO = 40.0

# For a search or one of many lengths, whose candidates may take seconds per call.
_SHORT_BUDGET_S = 3.0
# For the headline's backward: a few repeats of candidates that take ten seconds.
_LONG_BUDGET_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdCases:
    """Builds the cases of one machine.

    Attributes:
        setting: heads, dimensions, precision and device; each case has its own number of tokens.
        peers: the installed peers.
        missing: the others.
        chunk_sizes: the best chunk size of each participating peer.
        is_judged: whether ratios are required.
        peak: rates of the machine; None for tables without shares.
    """

    setting: SsdSetting
    peers: Sequence[Peer]
    missing: Sequence[Missing]
    chunk_sizes: Mapping[str, int]
    is_judged: bool
    peak: MachinePeak | None = None

    @classmethod
    def find(cls, setting: SsdSetting, *, is_judged: bool, peak: MachinePeak | None = None) -> "SsdCases":
        """All installed peers, before the search for chunk sizes."""
        found = [PEERS[name]() for name in peer_names(setting.device)]
        return cls(
            setting=setting,
            peers=[peer for peer in found if isinstance(peer, Peer)],
            missing=[peer for peer in found if isinstance(peer, Missing)],
            chunk_sizes={},
            is_judged=is_judged,
            peak=peak,
        )

    def search(self, num_tokens: int) -> Case:
        """All our backends that can run, and every peer at each of its chunk sizes."""
        problem = self._problem(num_tokens)
        ours = [_scan(problem, Mode.forward, name, _ours(backend), None) for name, backend in self._backends()]
        peers = [
            _scan(problem, Mode.forward, f"{peer.name}, chunk {size}", peer.operator, size)
            for peer in self.peers
            for size in peer.chunk_sizes
        ]
        case = self._case(Mode.forward, problem, [*ours, *peers, *self.missing], budget_s=_SHORT_BUDGET_S)
        return replace(case, name="implementations and chunk sizes")

    def with_best_chunks(self, rows: Sequence[Row]) -> "SsdCases":
        """Each peer at the best chunk size found; peers that failed or disagreed are dropped."""
        medians = {row.candidate: row.median_s for row in rows}
        best = {}
        for peer in self.peers:
            found = [(medians.get(f"{peer.name}, chunk {size}"), size) for size in peer.chunk_sizes]
            timed = [(median_s, size) for median_s, size in found if median_s is not None]
            if timed:
                best[peer.name] = min(timed)[1]
        return replace(self, peers=[peer for peer in self.peers if peer.name in best], chunk_sizes=best)

    def headline(self, mode: Mode, num_tokens: int) -> Case:
        """All peers and attention; for the backward, only peers that do not take minutes."""
        problem = self._problem(num_tokens)
        portable = [
            _scan(problem, mode, name, _ours(backend), None)
            for name, backend in self._backends()
            if backend != "reference"
        ]
        others = [*portable, *self._peers(problem, mode, _REQUIRED_RATIOS[mode])]
        if mode is Mode.backward:
            return self._case(mode, problem, others, budget_s=_LONG_BUDGET_S)
        ratio = _REQUIRED_ATTENTION_RATIO if self.is_judged else None
        others.append(attention_candidate(problem, mode, required_ratio=ratio))
        return self._case(mode, problem, others)

    def growth(self, lengths: Sequence[int]) -> Case:
        """Our forward at every length, alternating, since the lengths are compared with each other."""
        problems = [self._problem(num_tokens) for num_tokens in lengths]
        shortest, *others = (
            _scan(
                problem,
                Mode.forward,
                f"{OURS}, {problem.setting.num_tokens:,} tokens",
                _ours("auto"),
                None,
                is_ours=True,
            )
            for problem in problems
        )
        case = self._case(Mode.forward, problems[0], others)
        setting = f"{problems[0].setting}, and longer"
        return replace(case, name="forward, growth with length", setting=setting, ours=shortest)

    def length(self, num_tokens: int, *, has_attention: bool) -> Case:
        """Ours, the peers and optionally attention at one of many lengths."""
        problem = self._problem(num_tokens)
        others: list[Candidate | Missing] = [*self._peers(problem, Mode.forward, {})]
        if has_attention:
            others.append(attention_candidate(problem, Mode.forward))
        case = self._case(Mode.forward, problem, others, budget_s=_SHORT_BUDGET_S)
        return replace(case, name=f"forward, {num_tokens:,} tokens", is_brief=True)

    def overtaking(self, mode: Mode, num_tokens: int) -> Case:
        """Only ours and attention, at one of many lengths."""
        problem = self._problem(num_tokens)
        case = self._case(mode, problem, [attention_candidate(problem, mode)])
        return replace(case, name=f"{mode}, {num_tokens:,} tokens", is_brief=True)

    def _problem(self, num_tokens: int) -> SsdProblem:
        return SsdProblem(replace(self.setting, num_tokens=num_tokens))

    def _case(
        self,
        mode: Mode,
        problem: SsdProblem,
        others: Sequence[Candidate | Missing],
        *,
        budget_s: float | None = None,
    ) -> Case:
        return Case(
            name=str(mode),
            setting=str(problem.setting),
            ours=_scan(problem, mode, OURS, _ours("auto"), None, is_ours=True),
            others=others,
            peak=self.peak,
            budget_s=budget_s,
            clock=clock_for(self.setting.device),
        )

    def _peers(self, problem: SsdProblem, mode: Mode, required: Mapping[str, float]) -> list[Candidate]:
        return [
            _scan(
                problem,
                mode,
                peer.name,
                peer.operator,
                self.chunk_sizes[peer.name],
                required_ratio=required.get(peer.name) if self.is_judged else None,
            )
            for peer in self.peers
            if mode is Mode.forward or peer.has_linear_backward
        ]

    def _backends(self) -> list[tuple[str, str]]:
        """Names of our backends that can run here, except the one that `auto` chooses."""
        device, dtype = torch.device(self.setting.device), self.setting.dtype
        chosen = resolve("ssd", "auto", device, dtype).name
        usable = [backend.name for backend in operators()["ssd"] if backend.why_not(device, dtype) is None]
        return [(f"{OURS}, {name}", name) for name in usable if name != chosen]


def clock_for(device: str) -> Clock:
    """The clock for a device."""
    return event_clock if device == "cuda" else wall_clock


def _ours(backend: str) -> Operator:
    return lambda inputs, chunk_size: ssd(*inputs, chunk_size=chunk_size, backend=backend).y


def _scan(
    problem: SsdProblem,
    mode: Mode,
    name: str,
    operator: Operator,
    chunk_size: int | None,
    *,
    required_ratio: float | None = None,
    is_ours: bool = False,
) -> Candidate:
    return Candidate(
        name=name,
        run=problem.call(mode, operator, chunk_size),
        difference=partial(problem.difference, mode),
        tolerance=TOLERANCE[mode, problem.setting.dtype],
        unit="of the largest",
        required_ratio=required_ratio,
        work=_work(problem.setting, mode, is_ours=is_ours),
    )


def _work(setting: SsdSetting, mode: Mode, *, is_ours: bool) -> Work:
    """Operations; as executed only for our compiled loops."""
    has_backward = mode is Mode.backward
    per_head = scan_operations(setting.num_tokens, setting.head_dim, setting.state_dim, has_backward=has_backward)
    total = per_head.times(setting.num_batch * setting.num_heads)
    is_compiled = is_ours and setting.device == "cpu" and native.why_not() is None
    return Work(
        dtype=str(setting.dtype).removeprefix("torch."),
        flops=total.paper,
        executed_flops=total.executed if is_compiled else None,
    )
