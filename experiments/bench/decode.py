"""`lab bench decode`: tokens of whole models, one after the other, against torch's layers, transformers, and memory.

A step must read all weights once and its states once, and on a CPU little else takes time for a few rows: what a step
takes is compared with reading as many bytes, in the same rounds. Answers are timed with their prompt, as
`lab generate` and transformers' `generate` are used.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from lab.core.products import current as products
from lab.experiments.bench.decode_problem import TOLERANCE, DecodeProblem, DecodeSetting, transformers_model
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Candidate, Case, Missing, Row, Status
from lab.experiments.bench.peak import measure_peak
from lab.experiments.bench.rates import MachinePeak
from lab.experiments.bench.ssd_peers import BENCH_HINT
from lab.experiments.bench.streaming import new_array, streaming

DISTRIBUTIONS = ("numpy", "torch", "transformers")

_OURS, _TORCH, _TRANSFORMERS, _STREAM = "lab", "lab, torch's layers", "transformers", "as many bytes read once"
# a step within 1.3 times of streaming; answers against what `lab` computed before it had programs, and transformers
_STREAMING, _OVER_TORCH, _OVER_TRANSFORMERS = 1.3, 2.0, 2.5
_BUDGET_S = 60.0

_SMOLLM2 = DecodeSetting(
    shape="SmolLM2-135M",
    sizes={
        "num_layers": 30,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_heads": 9,
        "num_kv_heads": 3,
        "head_dim": 64,
        "vocab_size": 49_152,
        "tie_output": True,
    },
    attention_every=1,
    num_rows=1,
)
# HoVLE's widths with as many of its 32 layers as 1 GB of float32 holds, and a third of its vocabulary
_HOVLE = DecodeSetting(
    shape="HoVLE's widths",
    sizes={
        "num_layers": 4,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_heads": 16,
        "num_kv_heads": 8,
        "head_dim": 128,
        "vocab_size": 32_000,
    },
    attention_every=1,
    num_rows=1,
)
_QUICK = DecodeSetting(
    shape="tiny",
    sizes={
        "num_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
        "vocab_size": 64,
    },
    attention_every=1,
    num_rows=1,
    prompt_tokens=5,
    new_tokens=4,
)
_KINDS = (1, 4, None)
_ROWS = (1, 8)


def settings(*, quick: bool) -> list[DecodeSetting]:
    """The models and batches that are timed."""
    shapes = [replace(_QUICK, attention_every=every) for every in (1, 2, None)] if quick else [_SMOLLM2]
    if not quick:
        shapes += [replace(_HOVLE, attention_every=every) for every in _KINDS]
    return [replace(shape, num_rows=num_rows) for shape in shapes for num_rows in (_ROWS[:1] if quick else _ROWS)]


def cases(*, quick: bool) -> Generator[Case, list[Row], Conclusion]:
    """Yield cases one by one, receive the rows of each, and conclude."""
    peak = measure_peak(quick=quick)
    findings: list[Finding] = []
    chosen: dict[str, Mapping[str, str]] = {}
    with products.using(products.AUTO), torch.no_grad():
        for setting in settings(quick=quick):
            problem = DecodeProblem(setting)
            name = f"{setting.shape}, {setting.kind}, {setting.rows}"
            chosen[name] = products.settle(problem.model, [torch.float32]) | {"steps": problem.how()}
            rows = yield _step_case(name, problem, peak)
            findings += _of_step(name, rows, is_judged=not quick)
            # the others have the same products, and transformers does not have their layers
            if setting.kind == "teacher" and setting.shape != _HOVLE.shape:
                rows = yield _answer_case(name, problem)
                findings += _of_answer(name, rows, setting, is_judged=not quick)
    return Conclusion(findings=findings, facts={"how": chosen, "settings": _facts(quick=quick)}, peak=peak)


def _facts(*, quick: bool) -> list[dict[str, Any]]:
    return [asdict(setting) for setting in settings(quick=quick)]


def _step_case(name: str, problem: DecodeProblem, peak: MachinePeak) -> Case:
    def candidate(name: str, run: Callable[[], Tensor]) -> Candidate:
        return Candidate(
            name=name,
            run=run,
            difference=problem.difference,
            tolerance=TOLERANCE,
            unit="of the largest",
            work=problem.work,
        )

    others: list[Candidate | Missing] = [candidate(_TORCH, problem.step(is_compiled=False))]
    moved = problem.work.read_bytes + problem.work.updated_bytes
    read = streaming(_STREAM, [new_array(int(moved))])
    if read is not None:
        others.append(read)
    return Case(
        name=f"step, {name}",
        setting=f"{moved / 1e6:,.0f} MB of weights and states, float32, after {problem.setting.prompt_tokens} tokens",
        ours=candidate(_OURS, problem.step(is_compiled=True)),
        others=others,
        peak=peak,
    )


def _answer_case(name: str, problem: DecodeProblem) -> Case:
    setting = problem.setting
    expected = problem.answer(is_compiled=False)

    def candidate(name: str, run: Callable[[], Tensor]) -> Candidate:
        return Candidate(
            name=name,
            run=run,
            difference=lambda tokens: float((tokens != expected).double().mean()),
            tolerance=0.0,
            unit="of the tokens",
        )

    model = transformers_model(problem)
    others: list[Candidate | Missing] = [candidate(_TORCH, lambda: problem.answer(is_compiled=False))]
    if model is None:
        others.append(Missing(_TRANSFORMERS, BENCH_HINT))
    else:
        length, count = setting.prompt_tokens, setting.new_tokens

        def theirs() -> Tensor:
            answer: Tensor = model.generate(
                problem.prompt,
                attention_mask=torch.ones_like(problem.prompt),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
            return answer[:, length:]

        others.append(candidate(_TRANSFORMERS, theirs))
    return Case(
        name=f"answer, {name}",
        setting=f"{setting.new_tokens} new tokens after {setting.prompt_tokens}, greedy, float32",
        ours=candidate(_OURS, lambda: problem.answer(is_compiled=True)),
        others=others,
        budget_s=_BUDGET_S,
    )


def _of_step(name: str, rows: list[Row], *, is_judged: bool) -> list[Finding]:
    times = _times(rows)
    if _OURS not in times or _STREAM not in times:
        return []
    at_most = _STREAMING if is_judged else None
    value = times[_OURS] / times[_STREAM]
    return [Finding(name=f"step over streaming, {name}", value=value, at_most=at_most)]


def _of_answer(name: str, rows: list[Row], setting: DecodeSetting, *, is_judged: bool) -> list[Finding]:
    times = _times(rows)
    if _OURS not in times:
        return []
    tokens = setting.num_rows * setting.new_tokens
    findings = [Finding(name=f"tokens per second, {name}", value=tokens / times[_OURS], unit="tokens/s")]
    for peer, at_least in ((_TORCH, _OVER_TORCH), (_TRANSFORMERS, _OVER_TRANSFORMERS)):
        if peer in times:
            ratio = times[peer] / times[_OURS]
            required = at_least if is_judged else None
            findings.append(Finding(name=f"answer, {peer} over lab, {name}", value=ratio, at_least=required))
    return findings


def _times(rows: list[Row]) -> dict[str, float]:
    return {row.candidate: row.median_s for row in rows if row.status is Status.timed and row.median_s is not None}
