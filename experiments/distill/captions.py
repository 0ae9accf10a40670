"""Captions of the study's figures."""

from collections.abc import Sequence

from lab.core.runs.captions import Caption
from lab.experiments.distill.report import accuracies
from lab.experiments.distill.rows import Row
from lab.experiments.distill.summary import summaries

_KL = "Kullback-Leibler divergence from the teacher per answer token"
_SHOWS = {
    "layer_error": "Relative error of each converted layer's head outputs, on the teacher's inputs and held-out data, "
    "after each stage of the first student.",
    "loss": "Training loss by optimizer step, one panel for each stage of the first student; dots: held-out loss.",
    "accuracy": "Held-out questions answered correctly after each stage of training.",
    "trade_off": f"Accuracy, and {_KL}, of every student after its last stage, by its number of layers of softmax "
    "attention.",
    "students": f"Accuracy, and {_KL}, of every student after its last stage.",
}
# figures whose marks are means over replicates
_OF_REPLICATES = ("accuracy", "trade_off", "students")


def caption(name: str, table: Sequence[Row]) -> Caption:
    """The caption of a figure of a run."""
    sentences = [_SHOWS[name]]
    counts = {len(summary.values["accuracy"]) for summary in summaries(table)}
    if name in _OF_REPLICATES and counts:
        if max(counts) == 1:
            sentences.append("One replicate each.")
        else:
            few, many = min(counts), max(counts)
            number = str(many) if few == many else f"{few} to {many}"
            sentences.append(f"Marks: means over {number} replicates; bars: 95 % intervals over them.")
    if name in _OF_REPLICATES:
        names = "the teacher" if name == "trade_off" else ", ".join(accuracies(table))
        sentences.append(f"Horizontal lines: {names}.")
    questions = sum(row["total"] for row in table if row["kind"] == "accuracy" and row["model"] == "teacher")
    if name in _OF_REPLICATES and questions:
        sentences.append(f"{questions:,} held-out questions.")
    return Caption(sentences)
