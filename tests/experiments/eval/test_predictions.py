"""Files of predictions are, byte for byte, those that VLMEvalKit scored for tests/golden/benchmarks."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from lab.core.benchmarks.file import BenchmarkFile
from lab.core.benchmarks.spec import benchmark_of_file
from lab.experiments.eval.predictions import names_of, write_predictions

GOLDEN = Path(__file__).parents[2] / "golden" / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.tsv")))
def test_predictions_are_written_as_the_kit_reads_them(name: str, tmp_path: Path) -> None:
    content = (GOLDEN / f"{name}.tsv").read_bytes()
    rows = list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter="\t"))
    path = tmp_path / f"{name}.tsv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(row[:-1] for row in rows)
    # of MME, whose pairs are told by the names of their images
    for image in {row[rows[0].index("image_path")] for row in rows[1:]} if "image_path" in rows[0] else ():
        Image.new("L", (1, 1)).save(tmp_path / image)
    said = {row[0]: row[-1] for row in rows[1:]}
    written = write_predictions(tmp_path, "model", name, BenchmarkFile(path, benchmark_of_file(name)), said)
    assert written == tmp_path / "model" / f"model_{name}.tsv"
    assert written.read_bytes() == content


def test_no_two_models_share_a_file_and_none_leaves_the_folder() -> None:
    labels = ["runs/a model", "runs_a_model", "..", "../..", "", "model-2", "ü", "Qwen2.5"]
    names = ["runs_a_model", "runs_a_model-2", "model", "model-2", "model-3", "model-2-2", "model-4", "Qwen2.5"]
    assert names_of(labels) == names
