"""The rows that an evaluation records and tabulates, one class for each kind of row.

metrics.jsonl holds models, tasks and samples as they are produced; the table adds scores and differences.
"""

from typing import Literal, NotRequired, TypedDict


class ModelRow(TypedDict):
    """A model whose samples follow, or, finished, all of whose samples are recorded.

    Attributes:
        model: its label.
        role: what it is in the table: teacher, baseline or model.
        digest: of its weights.
        backends: what computes its operators.
        num_layers: layers with a mixer.
        num_softmax: layers of softmax attention among them.
        windows: of a teacher with the memory of a student, the tokens behind the sinks that each converted layer sees.
    """

    kind: Literal["model", "finished"]
    model: str
    role: str
    digest: str
    backends: str
    num_layers: int
    num_softmax: int
    windows: NotRequired[list[int]]


class TaskRow(TypedDict):
    """A task.

    Attributes:
        task: as it was typed.
        digest: of its files.
        num_samples: questions or documents.
        num_left_out: rows of the file without an image, which are not asked.
    """

    kind: Literal["task"]
    task: str
    digest: str
    num_samples: int
    num_left_out: int


class Sample(TypedDict):
    """What every row of a sample has.

    Attributes:
        model: whose sample it is.
        task: of the sample.
        place: number of the sample in its task, from 0.
    """

    model: str
    task: str
    place: int


class AnswerRow(Sample):
    """A question and a generated answer.

    Attributes:
        index, cluster, category, l2_category, split, is_first, is_yes: see `core.benchmarks.question.Answered`.
        prediction: the answer without the end of the turn.
        stopped_at: end of turn, max_new_tokens, the model's length, an image token (of a model that is not decoded step
            by step), or too long: the prompt did not fit the model.
        end_token: which one ended the turn; None if none did.
        num_prompt_tokens: those of images included; 0 if the prompt did not fit.
        num_new_tokens: the end of the turn included.
        hit, says_yes: the mark; 0 where a judge gives it.
        answer_ids: of the teacher: the tokens of its answer, the end of the turn included.
        kl: of an answered question with a teacher: the sum of KL(teacher || model) over the tokens of the teacher's
            answer and its end, in nats.
        agreeing: how many of these tokens the model finds likeliest, as the teacher did.
        num_compared: how many there are.
        not_compared: with a teacher: why there is nothing of these three.
    """

    kind: Literal["answer"]
    index: str
    cluster: str
    category: str
    l2_category: str
    split: str
    is_first: bool
    is_yes: bool
    prediction: str
    stopped_at: str
    end_token: int | None
    num_prompt_tokens: int
    num_new_tokens: int
    hit: float
    says_yes: float
    answer_ids: NotRequired[list[int]]
    kl: NotRequired[float]
    agreeing: NotRequired[int]
    num_compared: NotRequired[int]
    not_compared: NotRequired[str]


class ChoiceRow(Sample):
    """A question of multiple choice, and the likelihood of each option.

    Attributes:
        index, category, l2_category, split: as in an answer.
        hit: whether the right option is the likeliest.
        hit_per_byte: whether it is, with the logarithm divided by the number of bytes.
        log_likelihoods: of the options, in the order of their letters; none if the question with one of them is longer
            than the model reads, which counts as not answered.
    """

    kind: Literal["choice"]
    index: str
    category: str
    l2_category: str
    split: str
    hit: float
    hit_per_byte: float
    log_likelihoods: list[float]


class PieceRow(Sample):
    """The tokens of a text that one window predicts.

    Attributes:
        document: number of the document.
        nll: minus the logarithm of their probability, in nats.
        num_tokens: how many.
        num_bytes: of the document's tokens that are predicted, all in its first piece; 0 in the others.
        kl, agreeing, num_compared: as in an answer, for the tokens of the text; only with a teacher of the same
            vocabulary.
    """

    kind: Literal["piece"]
    document: int
    nll: float
    num_tokens: int
    num_bytes: int
    kl: NotRequired[float]
    agreeing: NotRequired[int]
    num_compared: NotRequired[int]


class ScoreRow(TypedDict):
    """A score, or the difference of two, in the table only.

    Attributes:
        kind: score; difference: model minus `against`; recovered: the share of the skill of `against` above chance;
            published: a paper's score.
        model: whose score it is.
        task: of the score.
        score: its name.
        unit: %, points, nats and so on.
        value: the score.
        low, high: ends of the interval; None where there is none.
        interval: how it was computed.
        number: clusters of samples that it rests on; of a mean over seeds, the seeds.
        is_headline: whether it is the score to quote.
        against: of a difference, the other model.
    """

    kind: Literal["score", "difference", "recovered", "published"]
    model: str
    task: str
    score: str
    unit: str
    value: float
    low: float | None
    high: float | None
    interval: str
    number: int
    is_headline: bool
    against: NotRequired[str]


SampleRow = AnswerRow | ChoiceRow | PieceRow
Row = ModelRow | TaskRow | SampleRow | ScoreRow
