"""`lab bench delta-rule`: what is exact, who is refused, and the whole from the command to the result file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.delta_rule import gated_delta_rule
from lab.experiments.bench.accuracy import Mode
from lab.experiments.bench.delta_rule import _sequence_case
from lab.experiments.bench.delta_rule_memory import OURS, peak_memory
from lab.experiments.bench.delta_rule_problem import DeltaRuleProblem, DeltaRuleSetting, Inputs
from lab.experiments.bench.harness import Missing, Status, measure

SETTING = DeltaRuleSetting(num_tokens=70, num_heads=2, key_dim=8, value_dim=4)


def by_definition(inputs: Inputs) -> Tensor:
    return gated_delta_rule(*inputs, scale=SETTING.scale, backend="reference").y


@pytest.mark.parametrize("mode", Mode)
def test_the_exact_results_are_those_of_the_definition(mode: Mode) -> None:
    problem = DeltaRuleProblem(SETTING)
    problem.inputs = Inputs(*(tensor.double() for tensor in problem.inputs))
    problem.setting = replace(SETTING, dtype=torch.float64)
    assert problem.difference(mode, problem.call(mode, by_definition)()) < 1e-12


@pytest.mark.parametrize("mode", Mode)
def test_a_peer_that_computes_something_else_is_not_timed(mode: Mode) -> None:
    class Peer:
        @staticmethod
        def chunked(*inputs: Tensor) -> tuple[Tensor, None]:
            return 1.01 * by_definition(Inputs(*inputs)), None

    case = _sequence_case(DeltaRuleProblem(SETTING), mode, Peer(), is_judged=False)  # type: ignore[arg-type]
    ours, theirs = measure(case, repeats=1, budget_s=1.0, shortest_repeat_s=0.0)
    assert (ours.candidate, ours.status, theirs.status) == (OURS, Status.timed, Status.differs)


def test_what_is_demanded_of_the_peer() -> None:
    problem = DeltaRuleProblem(SETTING)
    peer = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    stand_in = type("Peer", (), {"chunked": staticmethod(peer.torch_chunk_gated_delta_rule)})()
    required = {
        mode: _sequence_case(problem, mode, stand_in, is_judged=True).others[-1].required_ratio  # type: ignore[union-attr]
        for mode in Mode
    }
    assert required == {Mode.forward: 3.0, Mode.backward: 2.5}


def test_a_peer_that_is_missing_is_named_with_the_cure() -> None:
    missing = Missing("peer", "pip install peer")
    case = _sequence_case(DeltaRuleProblem(SETTING), Mode.forward, missing, is_judged=True)
    assert case.others[-1] is missing


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_that_cannot_be_measured_says_why() -> None:
    assert peak_memory(SETTING, Mode.forward).failure == ""
    refused = peak_memory(replace(SETTING, device="nowhere"), Mode.forward)
    assert "nowhere" in refused.failure
    assert refused.share is None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_the_command_compares_times_and_writes(lab: Callable[..., Any], tmp_path: Path) -> None:
    done = lab("bench", "delta-rule", "--quick", "--repeats", "2", "--json", str(tmp_path / "result.json"))
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["benchmark"] == "delta-rule"
    assert [case["name"] for case in content["cases"]] == ["forward", "forward and backward", "decoding step, batch 1"]
    assert all(case["rows"][0]["status"] == "timed" for case in content["cases"])
    assert all(row["status"] in ("timed", "missing") for case in content["cases"] for row in case["rows"])
    assert [finding["is_met"] for finding in content["findings"]] == [None, None]
