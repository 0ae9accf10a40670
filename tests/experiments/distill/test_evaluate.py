"""Measures with known answers: a student that is its teacher, a window over everything, a decode token by token."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lab.core.data.batch import Batch
from lab.core.errors import ConfigError
from lab.core.mixers.softmax import visible
from lab.core.models.decoder import Inputs
from lab.core.models.hovle.model import Hovle
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.baselines import (
    Baseline,
    ablate_images,
    baselines,
    windows_of_equal_memory,
    with_window,
    with_windows,
)
from lab.experiments.distill.config import DistillConfig
from lab.experiments.distill.data import Data, tokenizer_of
from lab.experiments.distill.evaluate import Counts, compare, compare_baselines
from lab.experiments.distill.loss_mask import LossMask, hidden_states, loss_mask
from lab.experiments.distill.objectives import autocast_of
from lab.experiments.distill.student import StudentConfig, build_student, keep_softmax

Config = Callable[..., DistillConfig]
Make = Callable[..., Hovle]
CPU = torch.device("cpu")


def batches_for(teacher: Hovle, config: DistillConfig, count: int = 2) -> list[Batch]:
    data = Data(config.data, config.prompt, teacher.config, tokenizer_of(None, config.prompt, config.data), seed=0)
    return list(data.held_out(count, batch_size=4))


def measured(student: Hovle, teacher: Hovle, batches: list[Batch], chunk_size: int = 1000) -> list[dict[str, object]]:
    return compare(
        student,
        teacher,
        batches,
        device=CPU,
        autocast=autocast_of(None, CPU),
        chunk_size=chunk_size,
        follow=lambda number: None,
    )


def test_a_student_that_is_its_teacher_is_at_no_distance(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    keep_softmax(student, teacher, range(4))
    *_, result = measured(student, teacher, batches_for(teacher, small_config("stage=all")))
    assert result["kl_per_token"] == pytest.approx(0.0, abs=1e-12)
    assert result["agreement"] == 1.0
    assert result["relative_error"] is None


def test_a_student_is_measured_against_plain_definitions(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    keep_softmax(student, teacher, [1])
    batches = batches_for(teacher, small_config("stage=all"))
    rows = measured(student, teacher, batches, chunk_size=7)
    result = rows[-1]
    kls, agreeing, answer_kls = [], [], []
    for batch in batches:
        with torch.no_grad():
            ours, theirs = (model.logits(hidden_states(model, batch)) for model in (student, teacher))
        kl = (theirs.softmax(-1) * (theirs.log_softmax(-1) - ours.log_softmax(-1))).sum(-1)
        is_real = loss_mask(batch, LossMask.non_padding)
        kls += kl[is_real].tolist()
        answer_kls += kl[loss_mask(batch, LossMask.answers)].tolist()
        agreeing += (ours.argmax(-1) == theirs.argmax(-1))[is_real].tolist()
    assert result["kl_per_token"] == pytest.approx(sum(kls) / len(kls), rel=1e-10)
    assert result["kl_per_answer_token"] == pytest.approx(sum(answer_kls) / len(answer_kls), rel=1e-10)
    assert result["agreement"] == sum(agreeing) / len(agreeing)
    layers = [row for row in rows if row["kind"] == "layer"]
    assert [row["layer"] for row in layers] == [0, 2, 3]
    assert all(0.9 < float(str(row["relative_error"])) < 1.3 for row in layers), "a seed is as far off as nothing"


def test_a_layer_whose_teacher_gives_zeros_has_no_relative_error(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    torch.nn.init.zeros_(teacher.mixer_layers()[0].layer.mixer.wqkv.weight)
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    rows = measured(student, teacher, batches_for(teacher, small_config("stage=all"), count=1))
    first, *others = (row["relative_error"] for row in rows if row["kind"] == "layer")
    assert first is None
    assert rows[-1]["relative_error"] == pytest.approx(sum(map(float, map(str, others))) / len(others))


def greedy_answer(model: Hovle, batch: Batch, row: int, start: int, length: int) -> list[int]:
    """A decode of one row, a whole forward pass for every token."""
    first_tile = int((batch.llm_ids[:row] == model.config.vision.image_token_id).sum()) // 4
    num_tiles = int((batch.llm_ids[row] == model.config.vision.image_token_id).sum()) // 4
    tokens = batch.llm_ids[row, :start]
    for _ in range(length):
        inputs = Inputs(tokens=tokens[None], pixel_values=batch.pixel_values[first_tile : first_tile + num_tiles])
        with torch.no_grad():
            following = model.logits(model.hidden(inputs)[:, -1]).argmax(-1)
        tokens = torch.cat([tokens, following])
    return tokens[start:].tolist()


def test_an_answer_counts_if_and_only_if_greedy_decoding_writes_it(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    (batch,) = batches_for(teacher, small_config("stage=all"), 1)
    # an untrained model answers nothing right: let it be asked for what it would say in some rows
    for answer in batch.answers[:3]:
        length = answer.stop - answer.start
        written = greedy_answer(teacher, batch, answer.row, answer.start, length)
        batch.llm_ids[answer.row, answer.start : answer.stop] = torch.tensor(written)
    _, counts = compare_baselines(
        [Baseline("teacher", teacher)], [batch], device=CPU, chunk_size=11, follow=lambda number: None
    )
    by_decoding = Counts()
    for answer in batch.answers:
        wanted = batch.llm_ids[answer.row, answer.start : answer.stop].tolist()
        written = greedy_answer(teacher, batch, answer.row, answer.start, len(wanted))
        by_decoding.add({answer.kind: (int(written == wanted), 1)})
    assert counts.by_kind == by_decoding.by_kind
    assert 0 < counts.accuracy < 1


def test_baselines_are_measured_like_students(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    batches = batches_for(teacher, small_config("stage=all"))
    asked = baselines(teacher, window=3, num_sinks=1)
    rows, counts = compare_baselines(asked, batches, device=CPU, chunk_size=7, follow=lambda number: None)
    of = {row["model"]: row for row in rows if row["kind"] == "result"}
    assert list(of) == ["teacher", "teacher, images ablated", "teacher, window 3 + 1"]
    assert (of["teacher"]["kl_per_token"], of["teacher"]["agreement"]) == (pytest.approx(0, abs=1e-12), 1.0)
    assert of["teacher"]["accuracy"] == counts.accuracy
    windowed = with_window(teacher, window=3, num_sinks=1)
    expected = measured(windowed, teacher, batches)[-1]
    found = of["teacher, window 3 + 1"]
    for quantity in ("accuracy", "kl_per_token", "kl_per_answer_token", "agreement"):
        assert found[quantity] == pytest.approx(expected[quantity], rel=1e-12)
    assert found["kl_per_token"] > 0
    assert of["teacher, images ablated"]["kl_per_token"] > 0


def test_a_window_over_everything_is_the_teacher(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    (batch,) = batches_for(teacher, small_config("stage=all"), 1)
    windowed = with_window(teacher, window=10_000, num_sinks=0)
    with torch.no_grad():
        torch.testing.assert_close(
            hidden_states(windowed, batch), hidden_states(teacher, batch), rtol=1e-12, atol=1e-12
        )


def test_a_window_sees_the_last_tokens_and_the_sinks_alone(make_teacher: Make) -> None:
    teacher = make_teacher()
    attention = teacher.mixer_layers()[0].layer.mixer
    windowed = with_window(teacher, window=3, num_sinks=2).mixer_layers()[0].layer.mixer
    u = torch.randn(1, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    head_outputs = windowed.head_outputs(u)
    for t in range(12):
        seen = [s for s in range(t + 1) if t - s < 3 or s < 2]
        assert visible(12, last=3, num_first=2)[t].nonzero().flatten().tolist() == seen
        hidden = u.clone()
        # what is not seen may change without a trace
        hidden[:, [s for s in range(12) if s not in seen]] += 1.0
        torch.testing.assert_close(windowed.head_outputs(hidden)[:, :, t], head_outputs[:, :, t], rtol=0, atol=1e-12)
    assert not torch.allclose(head_outputs, attention.head_outputs(u))


def test_the_window_shares_the_teachers_weights_and_leaves_it_as_it_is(make_teacher: Make) -> None:
    teacher = make_teacher()
    kinds = [layer.layer.mixer.kind for layer in teacher.mixer_layers()]
    windowed = with_window(teacher, window=3, num_sinks=2)
    assert [layer.layer.mixer.kind for layer in teacher.mixer_layers()] == kinds

    def places(model: Hovle) -> dict[str, int]:
        return {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}

    assert isinstance(windowed, Hovle)
    assert places(windowed) == places(teacher)


def test_a_window_of_equal_memory_fills_the_bytes_of_the_state(make_teacher: Make) -> None:
    teacher = make_teacher()
    student = build_student(teacher, StudentConfig(), seeds=Seeds(0))
    keep_softmax(student, teacher, [1])
    windows = windows_of_equal_memory(student, teacher, num_sinks=3)
    assert windows.keys() == {0, 2, 3}
    for index, window in windows.items():
        # what both allocate for one sequence
        (state,) = (layer.layer.mixer.allocate_state(1, max_length=5000) for layer in [student.mixer_layers()[index]])
        attention = teacher.mixer_layers()[index].layer.mixer
        sizes = [attention.allocate_state(1, max_length=3 + window + more).num_bytes for more in (0, 1)]
        assert sizes[0] <= state.num_bytes < sizes[1]
    windowed = with_windows(teacher, {0: 3}, num_sinks=2).mixer_layers()
    u = torch.randn(1, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mine, theirs in zip(windowed, with_window(teacher, window=3, num_sinks=2).mixer_layers(), strict=True):
        whole = teacher.mixer_layers()[mine.index].layer.mixer
        expected = theirs.layer.mixer if mine.index == 0 else whole
        assert mine.layer.mixer.head_outputs(u).equal(expected.head_outputs(u))
    with pytest.raises(ConfigError, match=r"num_sinks=9999: the state of .* leaves none to a window; lower it"):
        windows_of_equal_memory(student, teacher, num_sinks=9999)


def test_ablate_images_are_all_alike(make_teacher: Make, small_config: Config) -> None:
    teacher = make_teacher()
    batches = batches_for(teacher, small_config("stage=all"))
    blank = [ablate_images(batch) for batch in batches]
    assert not torch.cat([batch.pixel_values.flatten() for batch in blank]).any()
    assert [batch.answers for batch in blank] == [batch.answers for batch in batches]
    assert all(isinstance(batch.pixel_values, Tensor) and batch.pixel_values.any() for batch in batches)
