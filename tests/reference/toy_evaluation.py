"""Small benchmark files with pictures, and students of a few steps."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from PIL import Image

from lab.experiments.distill import export, job
from lab.experiments.distill.config import register
from lab.experiments.distill.selector import StudentSelector

COLOURS = ("red", "blue", "green", "yellow")


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (28, 28), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_tsv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def distilled_from(teacher: Path, folder: Path, *overrides: str) -> Path:
    """A checkpoint folder of a student after a few steps."""
    register()
    small = [f"teacher.path={teacher}", "teacher.hovle=null", "threads=1", "figures=[]", "evaluation.batch_size=4"]
    small += [f"stage_{stage}.{key}=2" for stage in (1, 3) for key in ("steps", "batch_size")]
    small += ["evaluation.num_batches=1", "evaluation.num_validation_batches=1", *overrides]
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=small)
    run = folder.with_name(f"{folder.name}-run")
    job.execute(config, run, small)
    export.main(str(run), folder, StudentSelector())
    return folder
