"""What each stage trains and leaves alone, tensor by tensor, and that it lowers its own loss."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.core.models.hovle.model import Hovle
from lab.core.runs.random_streams import Seeds
from lab.core.train.loop import fit
from lab.core.train.optim import adamw
from lab.core.train.state import TrainingState
from lab.experiments.distill.config import DistillConfig, Recipe, Reduction
from lab.experiments.distill.data import Data, tokenizer_of
from lab.experiments.distill.loss_mask import (
    LossMask,
    hidden_states,
    inputs_of,
    layer_loss_mask,
    loss_mask,
    next_tokens,
)
from lab.experiments.distill.losses import layer_mse
from lab.experiments.distill.objectives import BatchSource, LogitsObjective, autocast_of, objective_of
from lab.experiments.distill.student import (
    StudentConfig,
    build_student,
    keep_softmax,
    own_tensors,
    set_trainable,
    trainable_names,
)

Config = Callable[..., DistillConfig]
Make = Callable[..., Hovle]
CPU = torch.device("cpu")


def data_for(teacher: Hovle, config: DistillConfig) -> Data:
    return Data(config.data, config.prompt, teacher.config, tokenizer_of(None, config.prompt, config.data), seed=0)


def copies(model: Hovle) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: Hovle) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("train_decay", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_stage_moves_what_it_trains_and_nothing_else(
    make_teacher: Make, small_config: Config, tmp_path: Path, stage: int, train_decay: bool
) -> None:
    teacher = make_teacher()
    data = data_for(teacher, small_config("stage=all"))
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    if stage == 3:
        keep_softmax(student, teacher, [0])
    # step sizes that do not depend on the token give their weights no gradient in a first step
    recipe = Recipe(steps=6, batch_size=2, learning_rate=1e-2, warmup=0.0, decay=0.0, train_decay=train_decay)
    teacher_before, student_before = copies(teacher), copies(student)
    names = trainable_names(student, stage, train_decay=train_decay)
    trained = set_trainable(student, names)
    objective = objective_of(stage, teacher=teacher, student=student, recipe=recipe, autocast=autocast_of(recipe, CPU))
    stream = data.stream("stage", stage, batch_size=2)
    source = BatchSource(objective, stream, data.held_out(1, batch_size=2), CPU)
    optimizer = adamw(trained, learning_rate=1e-2, weight_decay=0.05, betas=(0.9, 0.999))
    state = TrainingState(tensors=own_tensors(student), optimizer=optimizer, data=stream)
    before = source.validate()
    fit(
        state,
        source.step,
        recipe,
        name=f"stage_{stage}",
        folder=tmp_path,
        validate=source.validate,
        log=lambda done: None,
    )
    assert source.validate() < before, "every stage lowers its own objective"
    assert moved(student_before, student) == set(names)
    assert moved(teacher_before, teacher) == set()
    decay = {name for name in own_tensors(student) if name.endswith(("A_log", "dt_bias"))}
    assert decay & set(names) == (set() if stage == 3 and not train_decay else decay)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_first_losses_are_a_thousand_times_the_mean_over_layers(
    make_teacher: Make, small_config: Config, stage: int
) -> None:
    teacher = make_teacher()
    (batch,) = data_for(teacher, small_config("stage=all")).held_out(1, batch_size=3)
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    recipe = Recipe()
    trained = set_trainable(student, trainable_names(student, stage, train_decay=True))
    objective = objective_of(stage, teacher=teacher, student=student, recipe=recipe, autocast=autocast_of(recipe, CPU))
    found = objective(batch, scale=0.5)["loss"]
    mixers = {layer.index: layer.layer.mixer for layer in student.converted_layers()}
    errors: list[Tensor] = []

    def compare(index: int, u: Tensor, head_outputs: Tensor) -> bool:
        mask = layer_loss_mask(batch, recipe.loss_mask, u.shape[1])
        errors.append(layer_mse(mixers[index].head_outputs(u), head_outputs, mask=mask))
        return True

    teacher.observed(inputs_of(teacher, batch), compare)
    assert len(errors) == len(mixers) > 1
    expected = 1000 * torch.stack(errors).mean()
    assert found == pytest.approx(float(expected.detach()), rel=1e-12)
    gradients = torch.autograd.grad(0.5 * expected, list(trained.values()), allow_unused=True)
    for parameter, gradient in zip(trained.values(), gradients, strict=True):
        assert parameter.grad is None if gradient is None else torch.allclose(parameter.grad, gradient, rtol=1e-10)


def test_the_third_loss_is_the_mean_or_the_sum_that_its_recipe_says(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    (batch,) = data_for(teacher, small_config("stage=all")).held_out(1, batch_size=3)
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    losses = {}
    for which in LossMask:
        for reduction in Reduction:
            recipe = Recipe(loss_mask=which, reduction=reduction, chunk_size=50)
            result = LogitsObjective(teacher, student, recipe, autocast_of(recipe, CPU))(batch, scale=0.0)
            losses[which, reduction] = result["loss"]
            assert result["kl_per_token"] == pytest.approx(losses[which, Reduction.token])
    for which in LossMask:
        num_masked = int(loss_mask(batch, which).sum())
        in_sum = losses[which, Reduction.token] * num_masked / 3
        assert losses[which, Reduction.sequence] == pytest.approx(in_sum, rel=1e-12)
    counts = [int(loss_mask(batch, which).sum()) for which in (LossMask.all, LossMask.non_padding, LossMask.answers)]
    assert counts[0] == batch.llm_ids.numel() > counts[1] == int(batch.llm_lengths.sum()) > counts[2] > 0


def test_the_labels_cross_entropy_comes_beside_the_divergence(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    (batch,) = data_for(teacher, small_config("stage=all")).held_out(1, batch_size=3)
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    plain, mixed = (
        LogitsObjective(teacher, student, recipe, autocast_of(recipe, CPU))(batch, scale=0.0)
        for recipe in (Recipe(), Recipe(cross_entropy=0.5))
    )
    targets = next_tokens(batch)
    with torch.no_grad():
        scores = student.logits(hidden_states(student, batch))
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
    assert mixed["loss"] - plain["loss"] == pytest.approx(0.5 * float(expected), rel=1e-10)


def test_a_label_is_expected_where_the_token_before_it_stands(make_teacher: Make, small_config: Config) -> None:
    (batch,) = data_for(make_teacher(), small_config("stage=all")).held_out(1, batch_size=3)
    targets = next_tokens(batch)
    for answer in batch.answers:
        wanted = batch.llm_ids[answer.row, answer.start : answer.stop]
        assert torch.equal(targets[answer.row, answer.start - 1 : answer.stop - 1], wanted)
    assert int((targets >= 0).sum()) == sum(answer.stop - answer.start for answer in batch.answers)


def test_products_in_bfloat16_leave_weights_in_float32(small_config: Config, make_teacher: Make) -> None:
    teacher = make_teacher().float()
    (batch,) = data_for(teacher, small_config("stage=all")).held_out(1, batch_size=2)
    losses = {}
    for stage in (1, 3):
        for autocast in (False, True):
            student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
            recipe = Recipe(autocast=autocast)
            trained = set_trainable(student, trainable_names(student, stage, train_decay=True))
            objective = objective_of(
                stage, teacher=teacher, student=student, recipe=recipe, autocast=autocast_of(recipe, CPU)
            )
            losses[stage, autocast] = objective(batch, scale=1.0)["loss"]
            dtypes = {parameter.grad.dtype for parameter in trained.values() if parameter.grad is not None}
            assert dtypes == {torch.float32}
        # bfloat16 keeps 8 bits
        assert losses[stage, True] == pytest.approx(losses[stage, False], rel=0.05)
        assert losses[stage, True] != losses[stage, False]
