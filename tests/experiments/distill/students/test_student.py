"""A student has its own trainable tensors, shares the rest with a teacher that never changes, and decodes in place."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from torch import Tensor, nn

from lab.core.errors import BackendError, ConfigError
from lab.core.hydra_schema import to_typed
from lab.core.mixers.initialisation import Initialisation
from lab.core.mixers.mamba2 import Mamba2, Mamba2Kernels, Mamba2Options
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.families import TeacherConfig, build_random
from lab.core.models.families import register as register_teacher
from lab.core.models.qwen2 import Qwen2Config
from lab.core.models.spec import build
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.placement import HybridConfig, Placement, softmax_layers
from lab.experiments.distill.student import (
    StudentConfig,
    build_student,
    keep_softmax,
    own_tensors,
    register,
    set_trainable,
    trainable_names,
)

CONF = Path(__file__).parents[4] / "conf"
HYBRID = (1, 3)
TOLERANCE = 1e-12


def made(teacher: LanguageModel, seed: int = 0, **options: object) -> LanguageModel:
    return build_student(teacher, StudentConfig(mixer=Mamba2Options(**options)), seeds=Seeds(seed))  # type: ignore[arg-type]


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def lengths_of(inputs: Inputs) -> dict[str, int]:
    """What `allocate_state` needs for these inputs."""
    lengths = {"max_length": inputs.tokens.shape[1]}
    return lengths if inputs.hd_tokens is None else lengths | {"hd_max_length": inputs.hd_tokens.shape[1]}


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def composed(group: str, option: str, schema: type) -> object:
    register()
    register_teacher()
    with initialize_config_module("lab.conf", version_base="1.3"):
        return to_typed(compose(f"{group}/{option}")[group], schema)


@pytest.fixture
def students(teacher: LanguageModel) -> Iterator[LanguageModel]:
    """A linear and a hybrid student."""
    linear, hybrid = made(teacher), made(teacher)
    keep_softmax(hybrid, teacher, HYBRID)
    return iter((linear, hybrid))


def test_a_student_shares_what_no_stage_trains_and_nothing_else(
    students: Iterator[LanguageModel], teacher: LanguageModel
) -> None:
    teachers = {storage(tensor) for tensor in teacher.state_dict().values()}
    for student in students:
        own = own_tensors(student)
        for stage in (1, 2, 3):
            assert set(trainable_names(student, stage, train_decay=True)) <= own.keys()
        for name, tensor in student.state_dict().items():
            assert (storage(tensor) in teachers) == (name not in own), name
        storages = [storage(tensor) for tensor in own.values()]
        assert len(set(storages)) == len(storages)
        assert not any(parameter.requires_grad for parameter in student.parameters())
        assert not student.training


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("is_hybrid", [False, True])
def test_a_stage_changes_what_it_trains_and_not_a_bit_of_anything_else(
    teacher: LanguageModel, inputs: Inputs, stage: int, is_hybrid: bool
) -> None:
    student = made(teacher)
    if is_hybrid:
        keep_softmax(student, teacher, HYBRID)
    teacher_before, before = copied(teacher), copied(student)
    names = trainable_names(student, stage, train_decay=False)
    parameters = set_trainable(student, names)
    assert {name for name, parameter in student.named_parameters() if parameter.requires_grad} == set(names)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        student(inputs).square().mean().backward()
        optimizer.step()
    changed = {name for name, tensor in student.state_dict().items() if not tensor.equal(before[name])}
    assert changed == set(names)
    assert all(tensor.equal(teacher_before[name]) for name, tensor in teacher.state_dict().items())


def test_what_each_stage_trains_in_a_layer(teacher: LanguageModel) -> None:
    student = made(teacher, skip=True)
    prefix = f"{student.mixer_layers()[0].name}.mixer."
    new = {"conv1d.weight", "conv1d.bias", "in_proj.weight", "g_norm.weight", "g_proj.weight", "D"}
    expected = {
        (1, False): new | {"dt_bias", "A_log"},
        (2, False): new | {"dt_bias", "A_log", "vkq_proj.weight"},
        (3, False): new | {"vkq_proj.weight"},
        (3, True): new | {"dt_bias", "A_log", "vkq_proj.weight"},
    }
    for (stage, train_decay), parts in expected.items():
        names = trainable_names(student, stage, train_decay=train_decay)
        assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == parts


def test_there_are_three_stages(teacher: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="stage=4 does not exist; choose from 1, 2, 3"):
        trainable_names(made(teacher), 4, train_decay=False)


def test_the_released_student_has_the_published_numbers_of_parameters() -> None:
    config = composed("teacher", "hovle_2p6b", TeacherConfig)
    assert isinstance(config, TeacherConfig)
    assert config.hovle is not None
    teacher = build(config.hovle, dtype=torch.bfloat16)
    student = made(teacher)

    def trained(stage: int, *, train_decay: bool = False) -> int:
        parameters = dict(student.named_parameters())
        return sum(parameters[name].numel() for name in trainable_names(student, stage, train_decay=train_decay))

    assert sum(parameter.numel() for parameter in student.parameters()) == 2_741_992_448
    assert (trained(1), trained(2), trained(3)) == (135_664_640, 404_100_096, 404_099_072)
    assert trained(3, train_decay=True) == 404_099_072 + 32 * 32
    assert student.allocate_state(1, max_length=1).num_bytes == 32 * 1_056_768
    hybrid = composed("student", "hybrid", StudentConfig)
    assert isinstance(hybrid, StudentConfig)
    keep_softmax(student, teacher, softmax_layers(hybrid.hybrid, 32))
    assert sum(parameter.numel() for parameter in student.parameters()) == 2_708_076_288
    assert trained(3) == 303_074_304
    softmax = [layer.index for layer in student.mixer_layers() if layer.layer.mixer.is_attention]
    assert softmax == [0, 4, 8, 12, 16, 20, 24, 28]


def test_kept_layers_are_the_teacher_s_bit_for_bit(teacher: LanguageModel) -> None:
    student = made(teacher)
    keep_softmax(student, teacher, HYBRID)
    for ours, theirs in zip(student.mixer_layers(), teacher.mixer_layers(), strict=True):
        assert ours.layer.mixer.kind == ("softmax" if ours.index in HYBRID else "mamba2")
        if ours.index in HYBRID:
            assert ours.layer.mixer is not theirs.layer.mixer
            weights = theirs.layer.mixer.state_dict()
            assert all(tensor.equal(weights[name]) for name, tensor in ours.layer.mixer.state_dict().items())


def test_a_student_whose_layers_are_all_kept_is_the_teacher(teacher: LanguageModel, inputs: Inputs) -> None:
    student = made(teacher)
    num_layers = len(student.mixer_layers())
    keep_softmax(student, teacher, softmax_layers(HybridConfig(placement=Placement.all), num_layers))
    assert student(inputs).equal(teacher(inputs))


def test_a_student_that_is_cast_leaves_its_teacher_alone(teacher: LanguageModel, inputs: Inputs) -> None:
    before = copied(teacher)
    student = made(teacher).to(torch.bfloat16)
    assert student(inputs).dtype == torch.bfloat16
    assert all(tensor.equal(before[name]) for name, tensor in teacher.state_dict().items())


def test_a_layer_s_seed_does_not_depend_on_the_other_layers(teacher: LanguageModel) -> None:
    first, again, other = (own_tensors(made(teacher, seed)) for seed in (0, 0, 1))
    assert all(again[name].equal(tensor) for name, tensor in first.items())
    gates = [tensor for name, tensor in first.items() if name.endswith("g_proj.weight")]
    assert not any(gate.equal(gates[0]) for gate in gates[1:])
    assert not any(other[name].equal(first[name]) for name in first if name.endswith("g_proj.weight"))


def test_own_tensors_are_all_that_makes_a_student(teacher: LanguageModel, inputs: Inputs) -> None:
    trained, fresh = made(teacher), made(teacher, 1)
    before = copied(teacher)
    ours, theirs = own_tensors(trained), own_tensors(fresh)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        theirs[name].copy_(tensor.add_(0.1))
    assert fresh(inputs).equal(trained(inputs))
    assert all(tensor.equal(before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("num_steps", [1, 4, 7])
def test_decoding_equals_the_whole_sequence_at_every_step(
    students: Iterator[LanguageModel], inputs: Inputs, num_steps: int
) -> None:
    hd_tokens = None if inputs.hd_tokens is None else inputs.hd_tokens[:, :-num_steps]
    prompt = replace(inputs, tokens=inputs.tokens[:, :-num_steps], hd_tokens=hd_tokens)
    answer = inputs.tokens[:, -num_steps:]
    for student in students:
        expected = student(inputs)
        state = student.allocate_state(1, **lengths_of(inputs))
        logits = student(prompt, state)
        torch.testing.assert_close(logits, expected[:, :-num_steps], rtol=TOLERANCE, atol=TOLERANCE)
        for t in range(num_steps):
            step = student(Inputs(tokens=answer[:, t : t + 1]), state)
            whole = expected[:, t - num_steps, None]
            torch.testing.assert_close(step, whole, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_state_of_a_linear_student_does_not_grow(students: Iterator[LanguageModel], inputs: Inputs) -> None:
    linear, hybrid = students
    lengths = lengths_of(inputs)
    state = linear.allocate_state(1, **lengths)
    after_nothing = [tensor.shape for layer in state.layers for tensor in layer.tensors()]
    linear(inputs, state)
    for _ in range(3):
        # further than it was allocated for
        linear(Inputs(tokens=inputs.tokens[:, :1]), state)
    assert [tensor.shape for layer in state.layers for tensor in layer.tensors()] == after_nothing
    longer = {name: 1000 * length for name, length in lengths.items()}
    assert linear.allocate_state(1, **longer).num_bytes == state.num_bytes
    assert hybrid.allocate_state(1, **longer).num_bytes > hybrid.allocate_state(1, **lengths).num_bytes


@pytest.mark.parametrize("initialisation", Initialisation)
@pytest.mark.parametrize("rotary", [False, True])
def test_a_student_of_a_text_model_with_biases(initialisation: Initialisation, rotary: bool) -> None:
    decoder = Qwen2Config(
        num_layers=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        vocab_size=50,
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=10000.0, max_length=64),
        qkv_bias=True,
        tie_output=True,
    )
    generator = torch.Generator().manual_seed(0)
    teacher = build_random(decoder, device=torch.device("cpu"), dtype=torch.float64, generator=generator, std=0.3)
    config = StudentConfig(initialisation=initialisation, mixer=Mamba2Options(rotary=rotary))
    student = build_student(teacher.requires_grad_(False), config, seeds=Seeds(0))
    assert "llm.layers.1.mixer.vkq_proj.bias" in trainable_names(student, 2, train_decay=False)
    tokens = torch.randint(0, 50, (2, 9), generator=generator)
    state = student.allocate_state(2, max_length=9)
    pieces = [tokens[:, :4], *(tokens[:, t : t + 1] for t in range(4, 9))]
    logits = torch.cat([student(Inputs(tokens=piece), state) for piece in pieces], dim=1)
    torch.testing.assert_close(logits, student(Inputs(tokens=tokens)), rtol=TOLERANCE, atol=TOLERANCE)


def test_implementations_are_settled_when_a_student_is_built(teacher: LanguageModel) -> None:
    config = StudentConfig(mixer=Mamba2Options(kernels=Mamba2Kernels(ssd="reference")))
    for layer in build_student(teacher, config, seeds=Seeds(0)).mixer_layers():
        assert isinstance(layer.layer.mixer, Mamba2)
        assert layer.layer.mixer.backends["ssd"].name == "reference"  # type: ignore[union-attr]
    with pytest.raises(BackendError, match="causal_conv backend='fastest' does not exist"):
        build_student(
            teacher, StudentConfig(mixer=Mamba2Options(kernels=Mamba2Kernels(causal_conv="fastest"))), seeds=Seeds(0)
        )


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "student").glob("*.yaml")))
def test_every_student_that_ships_composes(name: str) -> None:
    config = composed("student", name, StudentConfig)
    assert isinstance(config, StudentConfig)
    head = Placement.head_interleaved
    expected = {"linear": Placement.none, "hybrid": head, "serving": head, "two_timescales": head}
    assert config.hybrid.placement is expected[name]
    assert config.initialisation is Initialisation.mimic
