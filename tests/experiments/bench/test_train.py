"""`lab bench train`: the loop and the bare steps are the same training, and operations are those of its products."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from lab.experiments.bench.train_operations import training_operations
from lab.experiments.bench.train_problem import Training
from lab.experiments.bench.train_setting import SMOLLM2, TrainSetting
from lab.experiments.distill.loader import Loader

# longer than a quick test may take
pytestmark = pytest.mark.slow

TINY = TrainSetting(teacher="hovle_tiny", num_layers=1, batch_size=2, steps=3)
TOKENS = TrainSetting(teacher=SMOLLM2, num_layers=2, batch_size=2, steps=2, num_tokens=64, vocab_size=512)


CASES = [(setting, stage) for setting in (TINY, TOKENS) for stage in (1, 2, 3)]


@pytest.mark.parametrize(("setting", "stage"), CASES, ids=str)
def test_the_loop_takes_the_bare_steps(setting: TrainSetting, stage: int, tmp_path: Path) -> None:
    with Training(setting, stage, tmp_path) as training:
        expected = training.bare()
        assert len(set(expected)) == setting.steps
        assert training.bare() == expected
        for loader in (Loader.inline, Loader.process):
            for _ in range(2):
                assert training.loop(loader, is_recorded=False) == expected
        for sinks in ([], ["csv"]):
            assert training.loop(Loader.inline, is_recorded=True, sinks=sinks) == expected
        assert (len(training.waits), len(training.recordings)) == (6, 1)
        assert all(0 < share < 1 for share in training.waits)
        assert training.seconds_of_a_checkpoint() > 0
    for rows in tmp_path.glob("run-[01]/metrics.jsonl"):
        assert [json.loads(line)["loss"] for line in rows.read_text().splitlines()] == expected
    assert len(list(tmp_path.glob("run-1/csv/*"))) > 0
    assert len(list(tmp_path.glob("checkpoints/*/model.safetensors"))) == 1


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_products_of_linear_layers_are_those_that_torch_counts(stage: int, tmp_path: Path) -> None:
    with Training(TOKENS, stage, tmp_path) as training:
        objective = training.objective()
        with FlopCounterMode(display=False) as counter:
            objective(training.batch, scale=1.0)
        counted = counter.get_flop_counts()["Global"]
        models = training.teacher, training.student
        expected = training_operations(stage, *models, training.batch, with_operators=False)
    linear = sum(count for name, count in counted.items() if str(name) in ("aten.mm", "aten.addmm"))
    assert linear == pytest.approx(expected.paper, rel=1e-9)


def test_the_quick_benchmark_runs_from_the_command_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    words = ["lab", "bench", "train", "--quick", "--repeats", "1", "--json", str(path)]
    script = f"import sys; sys.argv = {words!r}\nfrom lab.cli.main import main; main()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    names = [*(f"HoVLE's widths, stage {stage}" for stage in (1, 2, 3)), "SmolLM2, stage 3", "tiny teacher, stage 3"]
    assert [case["name"] for case in content["cases"]] == names
    assert {row["status"] for case in content["cases"] for row in case["rows"]} <= {"timed", "missing"}
    found = {finding["name"]: finding["value"] for finding in content["findings"]}
    for name in names:
        assert found[f"tokens, {name}"] > 0
        assert 0 <= found[f"share that steps wait for data, {name}"] < 1
        assert 0 < found[f"share of checkpoints, {name}"] < 1
        assert 0 < found[f"share of the recorder, {name}"] < 1
