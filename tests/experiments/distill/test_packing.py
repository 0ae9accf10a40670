"""Packed samples train as padded ones do: the same losses and gradients, and no position between or behind them."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn import one_in
from lab.core.data.batch import Batch, to_tensors
from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.picture_format import IMAGENET
from lab.core.data.sample import Sample, pack, pad
from lab.core.models.decoder import LanguageModel
from lab.core.models.hovle.model import Hovle
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.config import DistillConfig, Recipe, Reduction
from lab.experiments.distill.data import Data, tokenizer_of
from lab.experiments.distill.estimate import steps
from lab.experiments.distill.loss_mask import LossMask, next_tokens
from lab.experiments.distill.objectives import AnswersObjective, Objective, autocast_of, objective_of
from lab.experiments.distill.student import (
    build_student,
    keep_softmax,
    set_trainable,
    trainable_names,
)

Make = Callable[..., Hovle]
Runner = Any
CPU = torch.device("cpu")
TOLERANCE = 1e-12  # of the largest gradient, float64
# the longer sequence of the HD variant has no answers
MASKS = {"pre": [LossMask.non_padding, LossMask.answers], "post": [LossMask.non_padding]}


def both(config: DistillConfig, model: LanguageModel) -> tuple[Batch, Batch]:
    """The same samples padded and packed."""
    words = tokenizer_of(None, config.prompt, config.data)
    padded, packed = (
        Data(config.data, config.prompt, model.config, words, seed=0, is_packed=is_packed)
        .stream("packing", batch_size=4)
        .next_batch()
        for is_packed in (False, True)
    )
    return padded, packed


def gradients(objective: Objective, model: LanguageModel, batch: Batch) -> tuple[dict[str, float], list[Any]]:
    model.zero_grad(set_to_none=True)
    found = objective(batch, scale=0.5)
    return found, [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


def assert_equal(objective: Objective, model: LanguageModel, padded: Batch, packed: Batch) -> None:
    (loss, expected), (ours, found) = (gradients(objective, model, batch) for batch in (padded, packed))
    assert ours == pytest.approx(loss, rel=TOLERANCE)
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    assert largest > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize(
    ("stage", "kind", "shuffle"),
    one_in(3, list(product((1, 2, 3), ("mamba2", "gated_deltanet"), ("pre", "post"))), of="packing"),
)
def test_losses_and_gradients_are_those_of_padded_samples(
    make_teacher: Make, small_config: Callable[..., DistillConfig], stage: int, kind: str, shuffle: str
) -> None:
    teacher = make_teacher(shuffle=shuffle)
    config = small_config("stage=all", f"student/mixer={kind}", "data.picture_questions.num_questions=3")
    padded, packed = both(config, teacher)
    assert packed.is_packed
    assert packed.llm_ids.shape == (1, int(padded.llm_lengths.sum()))
    assert packed.llm_ids.numel() < padded.llm_ids.numel()
    student = build_student(teacher, config.student, seeds=Seeds(0))
    for is_hybrid in (False, True):
        if is_hybrid:
            keep_softmax(student, teacher, [1])
        set_trainable(student, trainable_names(student, stage, train_decay=True))
        for mask in MASKS[shuffle]:
            recipe = Recipe(loss_mask=mask, cross_entropy=0.3, reduction=Reduction.sequence, chunk_size=50)
            objective = objective_of(
                stage, teacher=teacher, student=student, recipe=recipe, autocast=autocast_of(recipe, CPU)
            )
            assert_equal(objective, student, padded, packed)


def test_a_new_teacher_learns_the_same(make_teacher: Make, small_config: Callable[..., DistillConfig]) -> None:
    config = small_config("stage=all")
    model = make_teacher().requires_grad_(True)
    assert_equal(AnswersObjective(model, autocast_of(None, CPU)), model, *both(config, model))
    model.requires_grad_(False)


def sample(length: int, first: int, *, is_text: bool) -> Sample:
    ids = np.arange(first, first + length, dtype=np.int64)
    labels = ids.copy()
    if not is_text:
        labels[: length // 2 + 1] = IGNORED
    conversation = Conversation(ids, ids, labels, ((length // 2, length),))
    return Sample(np.zeros((0, 2, 2, 3), np.uint8), conversation, ("text",), IMAGENET)


@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=6), is_text=st.booleans())
@settings(max_examples=50, deadline=None)
def test_every_position_predicts_the_same_label(lengths: list[int], is_text: bool) -> None:
    """No token of one sample is the label of another: text has labels from the first token on."""
    samples = [sample(length, 100 * row, is_text=is_text) for row, length in enumerate(lengths)]
    padded, packed = to_tensors(pad(samples)), to_tensors(pack(samples))
    expected = [next_tokens(padded)[row, :length] for row, length in enumerate(lengths)]
    assert next_tokens(packed)[0].equal(torch.cat(expected))
    for answer, theirs in zip(packed.answers, padded.answers, strict=True):
        ids = packed.llm_ids[answer.row, answer.start : answer.stop]
        assert ids.equal(padded.llm_ids[theirs.row, theirs.start : theirs.stop])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_memory_is_estimated_for_the_longest_sample_at_least_and_evaluation_is_padded(
    make_teacher: Make, small_config: Callable[..., DistillConfig], batch_size: int
) -> None:
    lengths = [2, 3, 2, 4, 50, 3, 2, 6]
    packed = to_tensors(pack([sample(length, 0, is_text=True) for length in lengths]))
    config = small_config("stage=1", "packing=true", f"stage_1.batch_size={batch_size}")
    training, evaluation = steps(config, make_teacher().config, packed, packed)
    assert evaluation.num_tokens == 50
    assert training.num_tokens == {1: 50, 2: 25, 5: 10, 8: 9}[batch_size]


@pytest.mark.slow
def test_a_run_of_packed_samples_ends_as_one_of_padded_samples(runner: Runner) -> None:
    rows = []
    for is_packed in ("false", "true"):
        masked = [f"stage_{stage}.loss_mask=non_padding" for stage in (1, 2, 3)]
        runner.run(is_packed, "stage=all", f"packing={is_packed}", *masked)
        rows.append([row for row in runner.table(is_packed) if row["kind"] in ("train", "evaluation")])
    assert len(rows[0]) == len(rows[1]) > 10
    for padded, packed in zip(*rows, strict=True):
        assert packed["tokens"] == padded["tokens"]
        assert packed["loss"] == pytest.approx(padded["loss"], rel=1e-3, nan_ok=True)
