"""`lab bench distill`: the public recipe says what ours says, wrong steps are not timed, memory is a process's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.core.mixers.base import MixerShape
from lab.core.ssd import ssd
from lab.experiments.bench.distill_memory import CHUNKS, OURS, peak_memory
from lab.experiments.bench.distill_problem import Exact, StageOne, StepSetting
from lab.experiments.bench.distill_recipe import Scan, in_chunks, step_by_step
from lab.experiments.bench.harness import Candidate, Case, Status, measure

# longer than a quick test may take
pytestmark = pytest.mark.slow

TOKENS = StepSetting(teacher="hovle_tiny", num_layers=3, batch_size=2, num_tokens=70)
PICTURES = StepSetting(teacher="hovle_tiny", num_layers=1, batch_size=2)


@pytest.mark.parametrize("scan", [step_by_step, in_chunks])
@pytest.mark.parametrize("setting", [TOKENS, PICTURES], ids=["tokens", "pictures"])
def test_the_recipe_has_our_loss_and_our_gradients(setting: StepSetting, scan: Scan) -> None:
    problem = StageOne.of(setting).double()
    (loss, *gradients), (expected_loss, *expected) = problem.ours()(), problem.recipes(scan)()
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-12)
    # in each layer: two of the convolution, in_proj, dt_bias, A_log, g_norm, g_proj
    assert len(gradients) == 7 * len(problem.student.mixer_layers())
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-10 * theirs.norm()


@pytest.mark.parametrize("num_tokens", [1, 128, 300])
def test_chunks_give_what_the_recurrence_gives(num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    dt, A = 0.1 * normal(2, num_tokens, 3).abs(), -normal(3).abs()
    x, B, C = (normal(2, num_tokens, 3, 4) for _ in range(3))
    expected = ssd(x, dt, A, B, C, backend="reference").y
    assert (in_chunks(x, dt, A, B, C) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_sizes_are_those_of_the_configurations() -> None:
    large = StageOne.of(StepSetting(teacher="hovle_2p6b", num_layers=1, batch_size=1, num_tokens=5))
    (layer,) = large.student.mixer_layers()
    assert layer.layer.mixer.shape == MixerShape(hidden_size=2048, num_heads=16, num_kv_heads=8, head_dim=128)
    assert layer.layer.mlp.up.weight.shape == (8192, 2048)
    assert large.batch.llm_ids.shape == (1, 5)
    tiny = StageOne.of(StepSetting(teacher="hovle_tiny", num_layers=6, batch_size=3))
    assert [layer.layer.mixer.shape.hidden_size for layer in tiny.student.mixer_layers()] == [64] * 8
    assert len(tiny.batch.llm_ids) == 3


def test_a_step_with_another_loss_or_gradient_is_not_timed() -> None:
    problem = StageOne.of(TOKENS)
    exact = Exact(problem)

    def status(change: int | None) -> Status:
        def run() -> list[Tensor]:
            found = list(problem.recipes(in_chunks)())
            if change is not None:
                found[change] = 1.001 * found[change]
            return found

        ours, other = (
            Candidate(name=name, run=step, difference=exact.difference, tolerance=1e-4, unit="")
            for name, step in (("ours", problem.ours()), ("other", run))
        )
        case = Case(name="step", setting="", ours=ours, others=[other])
        rows = measure(case, repeats=1, budget_s=1.0, shortest_repeat_s=0.0)
        assert rows[0].status is Status.timed
        return rows[1].status

    assert status(None) is Status.timed
    assert status(0) is Status.differs
    assert status(5) is Status.differs


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="reads Linux's account of memory")
def test_memory_is_that_of_a_process_of_its_own() -> None:
    setting = StepSetting(teacher="hovle_tiny", num_layers=4, batch_size=4, num_tokens=512)
    ours, chunks = (peak_memory(candidate, setting, TOKENS) for candidate in (OURS, CHUNKS))
    assert (ours.failure, chunks.failure) == ("", "")
    assert ours.fixed_bytes == chunks.fixed_bytes
    assert 0 < 3 * ours.above_bytes < chunks.above_bytes


@pytest.mark.slow
def test_memory_that_cannot_be_measured_is_not_found() -> None:
    peak = peak_memory("nobody", TOKENS, TOKENS)
    assert "nobody" in peak.failure


@pytest.mark.slow
def test_the_quick_benchmark_runs_from_the_command_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "distill.json"
    words = ["lab", "bench", "distill", "--quick", "--repeats", "1", "--json", str(path)]
    script = f"import sys; sys.argv = {words!r}\nfrom lab.cli.main import main; main()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [case["name"] for case in content["cases"]] == ["HoVLE's widths", "tiny teacher"]
    assert {row["status"] for case in content["cases"] for row in case["rows"]} == {"timed"}
    assert all(finding["value"] > 0 for finding in content["findings"])
    # two ways of counting and two candidates' memory, for each case
    assert len(content["findings"]) == 8
    assert list(tmp_path.iterdir()) == [path]
