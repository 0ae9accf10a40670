"""Answers in VLMEvalKit's layout, so that it scores them elsewhere: the rows of the data set, and a prediction each.

The kit reads MODEL/MODEL_DATASET.tsv with PRED_FORMAT=tsv.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from lab.core.benchmarks.source import QuestionSource
from lab.core.runs.atomic_files import file_atomically, make_folder

PREDICTION = "prediction"
# of names of files
_OTHER = re.compile(r"[^A-Za-z0-9.+@-]+")


def names_of(labels: Sequence[str]) -> list[str]:
    """Names of files for models or data sets: letters that any place takes, and no name twice."""
    found: list[str] = []
    for label in labels:
        plain = _OTHER.sub("_", label).strip("_.") or "model"
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        found.append(next(name for name in numbered if name not in found))
    return found


def write_predictions(
    folder: Path, name: str, data_set: str, file: QuestionSource, predictions: Mapping[str, str]
) -> Path:
    """Write the answers of a model.

    Args:
        folder: of all predictions.
        name: of the model, as that of a file.
        data_set: the same of the data set.
        file: with the questions.
        predictions: by index.

    Returns:
        The file.

    Raises:
        RunError: if it cannot be written.
    """
    make_folder(folder / name)
    path = folder / name / f"{name}_{data_set}.tsv"
    with file_atomically(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        columns: list[str] = []
        # a file may be large, and only its first questions asked
        left = len(predictions)
        for question, cells in file.questions() if left else ():
            if question.index not in predictions:
                continue
            if not columns:
                columns = [*cells, PREDICTION]
                writer.writerow(columns)
            writer.writerow([*cells.values(), predictions[question.index]])
            left -= 1
            if not left:
                break
        text.detach()
    return path
