"""`lab bench decode`: what is exact, what a step moves, and the whole from the command to the result file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.experiments.bench.decode import _OURS, _QUICK, _STREAM, settings
from lab.experiments.bench.decode_problem import TOLERANCE, DecodeProblem, transformers_model


@pytest.mark.parametrize("attention_every", [1, 2, None])
def test_both_ways_take_the_same_step_again_and_again(attention_every: int | None) -> None:
    problem = DecodeProblem(replace(_QUICK, attention_every=attention_every, num_rows=3))
    for is_compiled in (True, False):
        run = problem.step(is_compiled=is_compiled)
        first = run().clone()
        assert problem.difference(first) < TOLERANCE
        if attention_every == 1:
            assert torch.equal(run(), first)
    assert torch.equal(problem.answer(is_compiled=True), problem.answer(is_compiled=False))


def test_another_answer_differs() -> None:
    problem = DecodeProblem(_QUICK)
    scores = problem.step(is_compiled=False)()
    assert problem.difference(scores * 1.01) > TOLERANCE


def test_a_step_moves_weights_and_states() -> None:
    teacher, linear = (DecodeProblem(replace(_QUICK, attention_every=every)) for every in (1, None))
    sizes = _QUICK.sizes
    read = sum(tensor.nbytes for tensor in teacher.model.parameters()) - 4 * sizes["vocab_size"] * sizes["hidden_size"]
    cache = 2 * 4 * sizes["num_layers"] * sizes["num_kv_heads"] * sizes["head_dim"] * _QUICK.prompt_tokens
    assert (teacher.work.read_bytes, teacher.work.updated_bytes) == (read + cache, 0)
    assert linear.work.updated_bytes >= 2 * 4 * sizes["num_layers"] * sizes["num_heads"] * sizes["head_dim"] ** 2


@pytest.mark.slow
def test_transformers_has_the_same_weights() -> None:
    pytest.importorskip("transformers")
    problem = DecodeProblem(_QUICK)
    model = transformers_model(problem)
    tokens = torch.cat([problem.prompt, problem.prompt[:, :1]], dim=1)
    with torch.no_grad():
        assert problem.difference(model(tokens).logits[:, -1]) < TOLERANCE
    assert transformers_model(DecodeProblem(replace(_QUICK, attention_every=2))) is None


def test_models_and_batches() -> None:
    names = [f"{each.shape}, {each.kind}, {each.rows}" for each in settings(quick=False)]
    assert names[:2] == ["SmolLM2-135M, teacher, 1 row", "SmolLM2-135M, teacher, 8 rows"]
    assert len(names) == len(set(names)) == 8


@pytest.mark.slow
def test_the_command_compares_times_and_writes(lab: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "decode.json"
    done = lab("bench", "decode", "--quick", "--repeats", "1", "--json", str(path))
    assert done.code == 0, done.err
    content = json.loads(path.read_text())
    candidates = {row["candidate"] for case in content["cases"] for row in case["rows"]}
    assert {_OURS, _STREAM} <= candidates
