"""`lab bench ssd`: what is counted, what is exact, who is refused, and the whole from the command to the figures."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lab.core.ssd import ssd
from lab.core.ssd.chunked import native
from lab.experiments.bench.accuracy import Mode, largest_difference
from lab.experiments.bench.harness import Missing, Row, Status, measure, wall_clock
from lab.experiments.bench.operations import scan_operations
from lab.experiments.bench.rates import MachinePeak
from lab.experiments.bench.ssd_attention import Attention
from lab.experiments.bench.ssd_cases import SsdCases
from lab.experiments.bench.ssd_decode import decode_case
from lab.experiments.bench.ssd_exact import Inputs
from lab.experiments.bench.ssd_lengths import crossover_length, growth_exponent
from lab.experiments.bench.ssd_memory import OURS, peak_memory
from lab.experiments.bench.ssd_peers import Peer
from lab.experiments.bench.ssd_problem import Operator, SsdProblem, SsdSetting

PEAK = MachinePeak(threads=1, flops_per_s={"float32": 1e9}, read_bytes_per_s=2e8, update_bytes_per_s=1e8)
SETTING = SsdSetting(num_tokens=70, num_heads=2, head_dim=8, state_dim=4)


def ours(inputs: Inputs, chunk_size: int | None) -> Tensor:
    return ssd(*inputs, chunk_size=chunk_size).y


def rows_of(mode: Mode, operator: Operator) -> list[Row]:
    maker = SsdCases(
        setting=SETTING,
        peers=[Peer(name="peer", operator=operator)],
        missing=[],
        chunk_sizes={"peer": 16},
        is_judged=False,
    )
    return measure(maker.headline(mode, 70), repeats=1, budget_s=1.0, shortest_repeat_s=0.0)


def peer_row(rows: Sequence[Row]) -> Row:
    (row,) = (row for row in rows if row.candidate == "peer")
    return row


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_the_growth_exponent_of_a_power_is_its_own(exponent: float) -> None:
    lengths = [4096, 8192, 16_384, 65_536]
    assert growth_exponent(lengths, [3e-6 * length**exponent for length in lengths]) == pytest.approx(exponent)


def test_the_growth_exponent_is_that_of_least_squares() -> None:
    lengths, times_s = [1, 2, 4, 8], [1.0, 3.0, 3.0, 9.0]
    x, y = torch.tensor(lengths).double().log(), torch.tensor(times_s).double().log()
    design = torch.stack([torch.ones_like(x), x], dim=1)
    expected = torch.linalg.solve(design.T @ design, design.T @ y)[1]
    assert growth_exponent(lengths, times_s) == pytest.approx(float(expected))


def test_the_crossover_of_a_line_and_a_parabola_is_exact() -> None:
    lengths = [64, 128, 256, 512, 1024]
    # 2e-6 T seconds against 7e-9 T^2
    ratios = [7e-9 * length**2 / (2e-6 * length) for length in lengths]
    assert crossover_length(lengths, ratios) == pytest.approx(2e-6 / 7e-9)


def test_the_crossover_is_after_the_last_length_that_is_lost() -> None:
    assert crossover_length([1, 2, 4, 8], [1.5, 0.5, 2.0, 4.0]) == pytest.approx(2 * math.sqrt(2))
    assert crossover_length([1, 2], [1.1, 1.2]) == 1
    assert crossover_length([1, 2], [1.1, 0.9]) is None


@pytest.mark.parametrize("num_tokens", [1, 70, 4100])
def test_the_exact_output_is_that_of_the_recurrence(num_tokens: int) -> None:
    # 4,100 tokens are more than one segment of the reference
    problem = SsdProblem(replace(SETTING, num_tokens=num_tokens))
    doubles = Inputs(*(tensor.double() for tensor in problem.inputs))
    expected = ssd(*doubles, backend="reference").y
    assert (problem.output - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.slow
def test_the_exact_gradients_are_those_of_the_recurrence() -> None:
    problem = SsdProblem(replace(SETTING, num_tokens=4100, num_heads=1))
    doubles = Inputs(*(tensor.double().requires_grad_() for tensor in problem.inputs))
    expected = torch.autograd.grad(ssd(*doubles, backend="reference").y, doubles, problem.output_gradient.double())
    for found, exact in zip(problem.gradients, expected, strict=True):
        assert (found - exact).abs().max() <= 1e-10 * exact.abs().max()


@pytest.mark.parametrize("num_tokens", [70, 600])
def test_attention_is_compared_with_its_definition(num_tokens: int) -> None:
    # 600 tokens are more than one block of the reference
    problem = SsdProblem(replace(SETTING, num_tokens=num_tokens))
    attention = Attention(problem)
    query, key, value = (
        tensor.double().requires_grad_() for tensor in (attention.query, attention.key, attention.value)
    )
    output = scaled_dot_product_attention(query, key, value, is_causal=True)
    gradient = problem.output_gradient.transpose(1, 2).double()
    exact = (output.detach(), *torch.autograd.grad(output, (query, key, value), gradient))
    assert attention.difference(Mode.forward, exact) <= 1e-12
    assert attention.difference(Mode.backward, exact) <= 1e-12
    not_causal = scaled_dot_product_attention(query, key, value).detach()
    assert attention.difference(Mode.forward, (not_causal,)) > 0.1
    assert attention.difference(Mode.backward, (*exact[:3], 1.01 * exact[3])) > 1e-3


@pytest.mark.parametrize("mode", Mode)
def test_the_right_result_is_timed(mode: Mode) -> None:
    row = peer_row(rows_of(mode, ours))
    assert row.status is Status.timed
    assert row.times_s
    assert row.ratio is not None


def test_the_difference_is_that_of_the_worst_tensor() -> None:
    exact = [torch.tensor([1.0, -4.0]), torch.tensor([10.0])]
    assert largest_difference([torch.tensor([1.0, -3.9]), torch.tensor([10.5])], exact) == pytest.approx(0.05)
    assert largest_difference(exact, exact) == 0
    assert largest_difference([exact[0], torch.tensor([math.nan])], exact) == math.inf
    assert largest_difference(exact, [exact[0], torch.tensor([math.nan])]) == math.inf
    assert largest_difference([exact[0], torch.tensor([[10.0]])], exact) == math.inf


def leaking(inputs: Inputs, chunk_size: int | None) -> Tensor:
    """The last token's input is seen by all."""
    return ours(inputs, chunk_size) + 1e-3 * inputs.x[:, -1:]


def forgetful(inputs: Inputs, chunk_size: int | None) -> Tensor:
    """Starts anew with every chunk."""
    parts = zip(*(tensor.split(16, dim=1) for tensor in (inputs.x, inputs.dt, inputs.B, inputs.C)), strict=True)
    return torch.cat([ours(Inputs(x, dt, inputs.A, B, C), None) for x, dt, B, C in parts], dim=1)


def invalid(inputs: Inputs, chunk_size: int | None) -> Tensor:
    return ours(inputs, chunk_size) + math.nan


def short(inputs: Inputs, chunk_size: int | None) -> Tensor:
    return ours(inputs, chunk_size)[:, :-1]


@pytest.mark.parametrize("operator", [leaking, forgetful, invalid, short])
def test_a_wrong_output_is_not_timed(operator: Operator) -> None:
    row = peer_row(rows_of(Mode.forward, operator))
    assert row.status is Status.differs
    assert not row.times_s


def test_a_wrong_gradient_of_one_argument_is_not_timed() -> None:
    def operator(inputs: Inputs, chunk_size: int | None) -> Tensor:
        y = ours(inputs, chunk_size)
        # zero, with a gradient
        return y + 1e-2 * (inputs.A - inputs.A.detach()).sum()

    assert peer_row(rows_of(Mode.forward, operator)).status is Status.timed
    row = peer_row(rows_of(Mode.backward, operator))
    assert row.status is Status.differs
    assert not row.times_s


def test_shares_are_those_of_the_counted_operations() -> None:
    maker = SsdCases(setting=SETTING, peers=[], missing=[], chunk_sizes={}, is_judged=False, peak=PEAK)
    ours, *others = measure(maker.headline(Mode.forward, 70), repeats=1, budget_s=1.0, shortest_repeat_s=0.0)
    counted = scan_operations(70, 8, 4, has_backward=False).times(2)
    assert ours.median_s is not None
    assert ours.peak_share == pytest.approx(counted.paper / ours.median_s / 1e9)
    expected = pytest.approx(counted.executed / ours.median_s / 1e9) if native.why_not() is None else None
    assert ours.executed_share == expected
    # nobody knows what the others multiply
    assert {other.executed_share for other in others} == {None}
    attention = others[-1]
    assert attention.median_s is not None
    pairs = sum(s <= t for t in range(70) for s in range(70))
    assert attention.peak_share == pytest.approx(2 * (8 + 4) * pairs * 2 / attention.median_s / 1e9)


def test_a_step_is_a_share_of_streaming() -> None:
    case = decode_case(replace(SETTING, num_batch=3), wall_clock, peak=PEAK, is_judged=False)
    ours = measure(case, repeats=1, budget_s=1.0, shortest_repeat_s=0.0)[0]
    assert ours.median_s is not None
    # the float32 state, read and written
    assert ours.streaming_share == pytest.approx(2 * 4 * (3 * 2 * 8 * 4) / ours.median_s / 1e8)


def test_each_peer_goes_on_with_its_best_chunk() -> None:
    peers = [Peer(name=name, operator=ours, chunk_sizes=(16, 32, 64)) for name in ("even", "wrong")]
    maker = SsdCases(setting=SETTING, peers=peers, missing=[], chunk_sizes={}, is_judged=False)
    times = {("even", 16): 3.0, ("even", 32): 1.0, ("even", 64): 2.0}
    found = [
        Row(case="", candidate=f"{name}, chunk {size}", status=Status.timed, times_s=(time_s,))
        for (name, size), time_s in times.items()
    ]
    refused = [Row(case="", candidate=f"wrong, chunk {size}", status=Status.differs) for size in (16, 32, 64)]
    best = maker.with_best_chunks([*found, *refused])
    assert best.chunk_sizes == {"even": 32}
    assert [peer.name for peer in best.peers] == ["even"]


def test_a_step_is_compared_with_its_state() -> None:
    case = decode_case(replace(SETTING, num_batch=3), wall_clock, is_judged=True)
    y, state = case.ours.run()
    assert case.ours.difference((y, state)) <= 1e-6
    assert case.ours.difference((y, 1.001 * state)) > case.ours.tolerance
    streaming = case.others[0]
    assert not isinstance(streaming, Missing)
    assert streaming.required_ratio == pytest.approx(2 / 3)


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="reads Linux's account of memory")
def test_memory_is_that_of_a_process_of_its_own() -> None:
    setting = SsdSetting(num_tokens=2048, num_heads=4, head_dim=64, state_dim=64)
    peak = peak_memory(OURS, setting, None, mode=Mode.backward)
    assert peak.failure == ""
    tensors, steps = 4 * 2048 * 4 * 64, 4 * 2048 * 4
    # x, B, C and the output's gradient; y and the gradients of x, B and C; steps and rates and their gradients
    assert peak.arguments_bytes == 8 * tensors + 2 * (steps + 4 * 4)
    assert peak.share is not None
    assert 0 < peak.share < 4


@pytest.mark.slow
def test_memory_that_cannot_be_measured_is_not_found() -> None:
    peak = peak_memory("nobody", SETTING, None, mode=Mode.forward)
    assert peak.share is None
    assert "nobody" in peak.failure


@pytest.mark.slow
def test_the_quick_benchmark_runs_from_the_command_to_the_figures_without_any_peer(tmp_path: Path) -> None:
    path = tmp_path / "ssd.json"
    # on one core: with two, every small operation on a busy machine waits for the second
    script = (
        "import importlib.util as u, os, sys\n"
        "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
        "find = u.find_spec; peers = {'transformers', 'mamba_ssm', 'fla'}\n"
        "u.find_spec = lambda name, package=None: None if name in peers else find(name, package)\n"
        f"sys.argv = ['lab', 'bench', 'ssd', '--quick', '--repeats', '2', '--json', {str(path)!r}]\n"
        "from lab.cli.main import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    names = [case["name"] for case in content["cases"]]
    assert names[:3] == ["implementations and chunk sizes", "forward", "forward and backward"]
    assert names[-1] == "decoding step, batch 1"
    rows = [row for case in content["cases"] for row in case["rows"]]
    assert {row["status"] for row in rows} == {"timed", "missing"}
    missing = {row["candidate"]: row["note"] for row in rows if row["status"] == "missing"}
    assert len(missing) == 3
    assert all("pip install" in note for note in missing.values())
    found = {finding["name"]: finding["value"] for finding in content["findings"]}
    (forward,) = (case["rows"] for case in content["cases"] if case["name"] == "forward")
    assert forward[0]["peak_share"] > 0
    assert found["share of the FMA peak, forward, operations as executed"] == forward[0]["executed_share"]
    assert found["share of the FMA peak, forward, operations as in the paper"] == forward[0]["peak_share"]
    assert content["machine"]["peak"]["flops_per_s"]["float32"] > 0
    assert "FMA peak" in done.stdout
    assert found["growth of the forward's time, lab ssd"] is not None
    assert content["plan"]["headline"] == 256
    for suffix in ("pdf", "png", "parquet"):
        assert (tmp_path / f"ssd_growth.{suffix}").exists()
        assert (tmp_path / f"ssd_crossover.{suffix}").exists()
    assert "requirements met" in done.stdout
