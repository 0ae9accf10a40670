"""Signals are those of a plain run; gradients taken layer by layer are those of the sum."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor

from lab.core.data.batch import Batch
from lab.core.models.hovle.model import Hovle
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.data import Data, tokenizer_of
from lab.experiments.distill.layer_local import layer_local_backward
from lab.experiments.distill.loss_mask import LossMask, hidden_states, inputs_of, layer_loss_mask
from lab.experiments.distill.losses import layer_mse
from lab.experiments.distill.student import StudentConfig, build_student, set_trainable, trainable_names

Config = Callable[..., DistillConfig]
Make = Callable[..., Hovle]
Signals = dict[int, tuple[Tensor, Tensor]]


def batch_for(teacher: Hovle, config: DistillConfig) -> Batch:
    data = Data(config.data, config.prompt, teacher.config, tokenizer_of(None, config.prompt, config.data), seed=0)
    (batch,) = data.held_out(1, batch_size=3)
    return batch


def signals_of(teacher: Hovle, batch: Batch) -> Signals:
    found: Signals = {}

    def keep(index: int, u: Tensor, head_outputs: Tensor) -> bool:
        found[index] = (u, head_outputs)
        return True

    with torch.no_grad():
        assert teacher.observed(inputs_of(teacher, batch), keep) is not None
    return found


@pytest.mark.parametrize("shuffle", ["pre", "post"])
def test_signals_are_what_the_attention_reads_and_says(make_teacher: Make, small_config: Config, shuffle: str) -> None:
    teacher = make_teacher(shuffle=shuffle)
    batch = batch_for(teacher, small_config("stage=all"))
    read: dict[int, Tensor] = {}
    handles = []
    for layer in teacher.mixer_layers():

        def keep(module: object, arguments: tuple[Tensor, ...], index: int = layer.index) -> None:
            read[index] = arguments[0]

        handles.append(layer.layer.register_forward_pre_hook(keep))
    with torch.no_grad():
        plain = hidden_states(teacher, batch)
    for handle in handles:
        handle.remove()
    found = signals_of(teacher, batch)
    assert sorted(found) == [0, 1, 2, 3]
    for layer in teacher.mixer_layers():
        u, head_outputs = found[layer.index]
        torch.testing.assert_close(u, layer.layer.mixer_norm(read[layer.index]), rtol=0, atol=0)
        torch.testing.assert_close(head_outputs, layer.layer.mixer.head_outputs(u), rtol=0, atol=0)
    with torch.no_grad():
        observed = teacher.observed(inputs_of(teacher, batch), lambda *_: True)
    assert observed is not None
    torch.testing.assert_close(observed, plain, rtol=0, atol=0)


@pytest.mark.parametrize("which", list(LossMask))
def test_layer_by_layer_gradients_are_those_of_the_summed_loss(
    make_teacher: Make, small_config: Config, which: LossMask
) -> None:
    teacher = make_teacher(num_embedding=3, num_llm=5)
    batch = batch_for(teacher, small_config("stage=all"))
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    trained = set_trainable(student, trainable_names(student, 2, train_decay=True))
    mixers = {layer.index: layer.layer.mixer for layer in student.mixer_layers()}
    errors = layer_local_backward(
        teacher,
        inputs_of(teacher, batch),
        mixers,
        scale=1000 / 8,
        mask_of=partial(layer_loss_mask, batch, which),
        autocast=nullcontext,
    )
    local = {name: parameter.grad for name, parameter in trained.items()}
    losses = [
        layer_mse(mixers[index].head_outputs(u), head_outputs, mask=layer_loss_mask(batch, which, u.shape[1]))
        for index, (u, head_outputs) in signals_of(teacher, batch).items()
    ]
    summed = torch.autograd.grad(1000 * torch.stack(losses).mean(), list(trained.values()))
    for (name, gradient), expected in zip(local.items(), summed, strict=True):
        assert gradient is not None, name
        assert float((gradient - expected).norm()) <= 1e-10 * float(expected.norm()), name
    assert list(errors.values()) == pytest.approx([float(loss.detach()) for loss in losses], rel=1e-12)


def test_no_gradient_is_taken_for_a_scale_of_zero(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    batch = batch_for(teacher, small_config("stage=all"))
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    trained = set_trainable(student, trainable_names(student, 1, train_decay=True))
    errors = layer_local_backward(
        teacher,
        inputs_of(teacher, batch),
        {layer.index: layer.layer.mixer for layer in student.mixer_layers()},
        scale=0.0,
        mask_of=lambda num_tokens: None,
        autocast=nullcontext,
    )
    assert len(errors) == 4
    assert all(parameter.grad is None for parameter in trained.values())


def test_the_teacher_stops_behind_the_last_layer_that_learns(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    batch = batch_for(teacher, small_config("stage=all"))
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    mixers = {layer.index: layer.layer.mixer for layer in student.mixer_layers()}
    finished = []
    for layer in teacher.mixer_layers():
        layer.layer.mlp.register_forward_hook(lambda *_, index=layer.index: finished.append(index))

    def errors(*indices: int) -> dict[int, float]:
        finished.clear()
        return layer_local_backward(
            teacher,
            inputs_of(teacher, batch),
            {index: mixers[index] for index in indices},
            scale=0.0,
            mask_of=lambda num_tokens: None,
            autocast=nullcontext,
        )

    whole = errors(0, 1, 2, 3)
    assert finished == [0, 1, 2]
    assert errors(0, 2) == {0: whole[0], 2: whole[2]}
    assert finished == [0, 1]
