"""`lab bench loader`: pictures and lengths are as said, and the quick benchmark runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.experiments.bench.loader_problem import Conversations, TeacherSize, of_photographs, write_photographs

SMALL = TeacherSize(num_embedding=1, num_llm=1, hidden_size=128)


def test_photographs_are_cut_into_the_tiles_of_the_release(tmp_path: Path) -> None:
    path = write_photographs(tmp_path / "photographs", number=2, size=(400, 300))
    with Image.open(path.with_name("0.jpg")) as image:
        assert (image.format, image.size) == ("JPEG", (400, 300))
    _, source, _ = of_photographs(path, SMALL, max_tiles=12)
    assert len(source) == 2  # type: ignore[arg-type]
    # twelve tiles of 4 by 3, and the thumbnail
    assert source[1].tiles.shape == (13, 448, 448, 3)
    assert len(source[1].conversation.llm_ids) > 13 * 256


def test_lengths_are_uniform_on_a_logarithmic_scale() -> None:
    source = Conversations(20, 8192, 100)
    lengths = np.array([len(source[index].conversation.llm_ids) for index in range(2000)])
    assert (lengths.min() >= 20, lengths.max() <= 8192) == (True, True)
    shares = (np.log(lengths / 20) / np.log(8192 / 20) * 4).astype(int).clip(0, 3)
    assert np.abs(np.bincount(shares) / 2000 - 0.25).max() < 0.05
    assert len({*lengths.tolist()}) > 1000


@pytest.mark.slow
def test_the_quick_benchmark_runs_from_the_command_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "loader.json"
    words = ["lab", "bench", "loader", "--quick", "--repeats", "1", "--json", str(path)]
    script = f"import sys; sys.argv = {words!r}\nfrom lab.cli.main import main; main()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [case["name"] for case in content["cases"]] == ["photographs", "conversations"]
    assert {row["status"] for case in content["cases"] for row in case["rows"]} == {"timed"}
    found = {finding["name"]: finding["value"] for finding in content["findings"]}
    for name in ("two loader processes", "one loader process", "between the steps"):
        assert 0 < found[f"share that steps wait for data, {name}"] < 1
    assert found["share of wasted positions, packed"] == 0
    assert 0.2 < found["share of wasted positions, padded"] < 1
    assert found["tokens, conversations, packed"] > 0
