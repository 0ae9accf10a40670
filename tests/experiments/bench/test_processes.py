"""`lab bench processes`: two processes take the steps of one, a failure is named, and the quick benchmark runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab.core.errors import RunError
from lab.core.parallel.config import Strategy
from lab.experiments.bench.process_group import ProcessGroup
from lab.experiments.bench.processes import APART, DDP, FSDP, ONE
from lab.experiments.bench.train_problem import Training
from lab.experiments.bench.train_setting import SMOLLM2, TrainSetting

# longer than a quick test may take
pytestmark = pytest.mark.slow

SETTING = TrainSetting(
    teacher=SMOLLM2, num_layers=1, batch_size=1, steps=3, accumulation=2, num_tokens=32, vocab_size=512
)


@pytest.mark.parametrize("strategy", [Strategy.ddp, Strategy.fsdp])
def test_two_processes_take_the_steps_of_one_again_and_again(strategy: Strategy, tmp_path: Path) -> None:
    with Training(SETTING, 3, tmp_path) as training:
        expected = training.bare()
    assert len(set(expected)) == SETTING.steps
    with ProcessGroup(SETTING, 3, size=2, strategy=strategy) as group:
        group.ready()
        for _ in range(2):
            assert group.losses() == pytest.approx(expected, rel=1e-5)


def test_a_process_that_fails_is_named() -> None:
    with (
        pytest.raises(RunError, match=r"process 0 of 1: .*no_such_model"),
        ProcessGroup(replace(SETTING, teacher="no_such_model"), 1, size=1) as group,
    ):
        group.ready()


def test_the_quick_benchmark_runs_from_the_command_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "processes.json"
    words = ["lab", "bench", "processes", "--quick", "--repeats", "1", "--json", str(path)]
    script = f"import sys; sys.argv = {words!r}\nfrom lab.cli.main import main; main()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    [case] = content["cases"]
    assert {row["candidate"]: row["status"] for row in case["rows"]} == dict.fromkeys((DDP, FSDP, ONE, APART), "timed")
    assert all(finding["value"] > 0 for finding in content["findings"])
