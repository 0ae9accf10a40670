"""The rows that a run records and tabulates, one class for each kind of row.

metrics.jsonl holds them as they are produced. The table leaves out `unit`, `seconds` and the rows of kind `done`, and
repeats the rows of a student's stages with the student's name.
"""

from typing import Literal, NotRequired, TypedDict

Quantity = Literal["accuracy", "kl_per_token", "kl_per_answer_token", "agreement", "relative_error"]


class Origin(TypedDict, total=False):
    """What a row is about; each column is there only where it has a meaning.

    Attributes:
        unit: the unit of work: `baselines`, `teacher`, or the key of a stage node. In metrics.jsonl only.
        stage: 1, 2 or 3; 0 for an untrained student. Of rows about a student.
        replicate: number of the replicate, from 0. Of rows about a student.
        model: `student`, the name of a baseline, or `chance`; a student's rows have it in the table only.
        student: label of the student's variant; empty if there is only one. In the table only, as the rest.
        is_last: whether this is the student's last stage.
        initialisation: how the student was initialised.
    """

    unit: str
    stage: int
    replicate: int
    model: str
    student: str
    is_last: bool
    initialisation: str


class StepMetrics(TypedDict):
    """What an objective measures in one optimizer step.

    Attributes:
        loss: the mean over the step's batches; its unit is the objective's.
        kl_per_token: stage 3: nats per token of the loss mask, the mean over the step's batches.
        tokens: tokens of the language model that the step read, padding not counted.
    """

    loss: float
    kl_per_token: NotRequired[float]
    tokens: float


class LeftOutSoFar(TypedDict, total=False):
    """Samples that a stage has left out, each as often as it was drawn; absent if there is none."""

    left_out: int


class TrainRow(Origin, StepMetrics, LeftOutSoFar):
    """One optimizer step.

    Attributes:
        step: optimizer steps done, this one included.
        learning_rate: of this step.
        gradient_norm: the Euclidean norm over all trained tensors, before clipping.
        seconds: wall time of the step. In metrics.jsonl only.
    """

    kind: Literal["train"]
    step: int
    learning_rate: float
    gradient_norm: float
    seconds: NotRequired[float]


class ValidationRow(Origin):
    """The loss on held-out data during training.

    Attributes:
        step: optimizer steps done.
        loss: the mean over held-out batches, in the unit of the training loss.
    """

    kind: Literal["validation"]
    step: int
    loss: float


class LayerRow(Origin):
    """How far a converted layer's head outputs are from the teacher's, on the teacher's inputs and held-out data.

    Attributes:
        layer: its number, through the embedding first, then the language model.
        name: its name in the model.
        relative_error: ||student - teacher|| / ||teacher|| over all tokens, heads and dimensions; None if all of the
            teacher's are zero.
        layer_mse: the mean squared difference.
    """

    kind: Literal["layer"]
    layer: int
    name: str
    relative_error: float | None
    layer_mse: float


class AccuracyRow(Origin):
    """Held-out questions of one type.

    Attributes:
        question: the type.
        right: questions answered correctly; chance has no count.
        total: questions.
        accuracy: the fraction answered correctly, from 0 to 1.
    """

    kind: Literal["accuracy"]
    question: str
    right: NotRequired[int]
    total: int
    accuracy: float


class ResultRow(Origin):
    """All held-out data; of chance, the accuracy only, and of a baseline all but what concerns layers.

    Attributes:
        accuracy: the fraction of questions answered correctly, from 0 to 1.
        kl_per_token: divergence from the teacher's next-token distribution, nats per token.
        kl_per_answer_token: the same over tokens of answers.
        agreement: the fraction of tokens, from 0 to 1, whose most likely successor is the teacher's.
        relative_error: the mean of the layers' relative errors; None if no converted layer has one.
        num_softmax: layers of softmax attention.
    """

    kind: Literal["result"]
    accuracy: float
    kl_per_token: NotRequired[float]
    kl_per_answer_token: NotRequired[float]
    agreement: NotRequired[float]
    relative_error: NotRequired[float | None]
    num_softmax: NotRequired[int]


class Step(TypedDict, total=False):
    """Optimizer steps done, this one included; absent in the evaluation after the training."""

    step: int


class BadSampleRow(Origin, Step):
    """A sample that was left out, for the first time in a unit of work. In metrics.jsonl only.

    Attributes:
        split: `train` or `test`.
        reason: why it was left out.
        file: that holds it; empty for samples that are made.
        line: its line there; the item of a JSON list, row of a table or sample of an archive.
        error: the reason in a sentence.
    """

    kind: Literal["bad_sample"]
    split: str
    reason: str
    file: str
    line: int
    error: str


class LeftOutRow(Origin):
    """Samples that the run left out for one reason, each counted once. In the table only.

    Attributes:
        split: `train` or `test`.
        reason: why they were left out.
        samples: how many.
    """

    kind: Literal["left_out"]
    split: str
    reason: str
    samples: int


class DoneRow(Origin):
    """The end of a unit of work; without it, the unit's other rows are discarded.

    Attributes:
        num_rows: rows that the unit has recorded before this one.
    """

    kind: Literal["done"]
    num_rows: int


Evaluation = LayerRow | AccuracyRow | ResultRow
Row = TrainRow | ValidationRow | Evaluation | BadSampleRow | LeftOutRow | DoneRow


def joined(origin: Origin, row: Row) -> Row:
    """A row preceded by the columns of its origin."""
    # the same line for each kind: a type checker cannot join a union
    if row["kind"] == "train":
        return {**origin, **row}
    if row["kind"] == "validation":
        return {**origin, **row}
    if row["kind"] == "layer":
        return {**origin, **row}
    if row["kind"] == "accuracy":
        return {**origin, **row}
    if row["kind"] == "result":
        return {**origin, **row}
    if row["kind"] == "bad_sample":
        return {**origin, **row}
    if row["kind"] == "left_out":
        return {**origin, **row}
    return {**origin, **row}
