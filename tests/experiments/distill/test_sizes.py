"""What each of several processes holds, against numbers counted by hand, and what is refused for it."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from lab.core.errors import ConfigError
from lab.core.hydra_schema import to_typed
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.llama.config import LlamaConfig
from lab.experiments.distill import estimate
from lab.experiments.distill.config import DistillConfig, register
from lab.experiments.distill.job import check
from lab.experiments.distill.plan import plans
from lab.experiments.distill.process_memory import Spread
from lab.experiments.distill.sizes import (
    batch_bytes,
    gathered_bytes,
    num_weights,
    trained_bytes,
    weights_bytes,
    written_bytes,
)

# a layer has 768 weights in its attention, 256 of them in the output projection, and 1536 in its SwiGLU
SMALL = LlamaConfig(
    num_layers=2,
    hidden_size=16,
    intermediate_size=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=10,
    rms_norm_eps=1e-5,
    rotary=RotaryConfig(theta=1e4, max_length=64),
)
TEACHER, OWN, OUTPUT = 2 * (768 + 1536) + 2 * 160, 2 * 768, 2 * 256
ALL_STAGES = ("stage=all", "teacher.precision=float32")
FSDP = ("parallel.strategy=fsdp",)
CUT = (*FSDP, "parallel.frozen=sharded")
AUTOCAST = ("teacher.precision=bfloat16", *(f"stage_{stage}.autocast=true" for stage in (1, 2, 3)))


def composed(*overrides: str) -> DistillConfig:
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        return to_typed(compose("distill", overrides=[*ALL_STAGES, *overrides]), DistillConfig)


@pytest.mark.parametrize(
    ("overrides", "processes", "expected"),
    [
        ((), 1, 4 * (TEACHER + 4 * OWN)),
        # a second gate
        (("student.mixer.timescales=2",), 1, 4 * (TEACHER + 4 * (OWN + OUTPUT))),
        (("parallel.strategy=ddp",), 4, 4 * (TEACHER + 4 * OWN)),
        # the output projections are copies as soon as they are parts
        (FSDP, 4, 4 * TEACHER + OUTPUT + 4 * OWN),
        (CUT, 4, TEACHER + OUTPUT + 4 * OWN),
        # and where they are in float32 beside a teacher in bfloat16
        (AUTOCAST, 1, 2 * TEACHER + 4 * OUTPUT + 16 * OWN),
        ((*AUTOCAST, *CUT), 4, TEACHER // 2 + OUTPUT + 4 * OWN),
    ],
)
def test_a_process_holds_its_parts(overrides: tuple[str, ...], processes: int, expected: int) -> None:
    config = composed(*overrides)
    spread = Spread.of(config.parallel, processes)
    assert num_weights(SMALL) == TEACHER
    assert weights_bytes(config, SMALL, spread) == expected
    assert written_bytes(config, SMALL, spread) == (0 if processes == 1 else 12 * OWN)


def test_an_embedding_that_is_the_output_head_is_whole_in_every_process() -> None:
    tied = replace(SMALL, tie_output=True)
    config = composed(*CUT)
    layers = 2 * (768 + 1536)
    assert num_weights(tied) == layers + 160
    trained = OUTPUT + 4 * OWN
    assert weights_bytes(config, tied, Spread.of(config.parallel, 4)) == 4 * 160 + layers + trained


def test_a_gguf_teacher_is_whole_in_every_process_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(*CUT, "teacher.path=model.gguf")
    spread = Spread.of(config.parallel, 64)
    # room for all parts, and not for 64 whole teachers
    monkeypatch.setattr(estimate, "memory_of_processes", lambda number: 64 * 4 * TEACHER - 1)
    assert weights_bytes(config, SMALL, spread) < TEACHER
    with pytest.raises(ConfigError, match="each process reads a GGUF file as a whole: give the teacher as safetensors"):
        estimate.refuse_weights_that_do_not_fit(config, SMALL, tmp_path, spread=spread)
    safetensors = composed(*CUT, "teacher.path=folder")
    estimate.refuse_weights_that_do_not_fit(safetensors, SMALL, tmp_path, spread=spread)


def test_what_is_gathered_counts_with_its_gradient_and_twice() -> None:
    mixer, swiglu = 768 + 256, 1536
    for overrides, expected in (((), 0), (FSDP, 2 * 2 * 4 * mixer), (CUT, 2 * (2 * 4 * mixer + 4 * swiglu))):
        config = composed(*overrides)
        assert gathered_bytes(config, SMALL, Spread.of(config.parallel, 2)) == expected


def test_layers_that_are_computed_again_keep_their_inputs() -> None:
    """Per token: what one layer keeps, twice, and 16 numbers for each of the two; without, what both layers keep."""
    passing = 2.6 * 32 + 4 * 16 + 2.6 * 16 + 17 * 16
    mixer, others = 13 * 16 + 2.6 * 16, 3.3 * 16 + 2.6 * 32
    logits = 24 * 10 * 8
    for overrides, floats in (
        ((), passing + 2 * (mixer + others)),
        (("parallel.activation_checkpointing=true",), passing + 2 * (mixer + others) + 2 * 16),
    ):
        config = composed("stage_3.batch_size=2", *overrides)
        found = batch_bytes(config, SMALL, "stage_3", 4, Spread())
        assert found == pytest.approx(2 * 4 * 4 * floats + logits)


def test_estimates_and_plans_of_the_release_agree() -> None:
    """Estimates leave out norms, biases and patches, and count a gate as large as the output projection."""
    for overrides in ((), CUT):
        config = composed("recipe=paper", "teacher=hovle_2p6b", "teacher.precision=bfloat16", *overrides)
        architecture = config.teacher.architecture
        assert architecture is not None
        spread = Spread.of(config.parallel, 8)
        plan = plans(config, architecture, processes=8, max_length=8192)[1]
        assert num_weights(architecture) == pytest.approx(2_606_327_808, rel=2e-3)
        assert weights_bytes(config, architecture, spread) == pytest.approx(plan.bytes_a_process, rel=5e-3)
        assert written_bytes(config, architecture, spread) == pytest.approx(plan.written_by_first, rel=5e-3)
        assert plan.batch_a_process == round(batch_bytes(config, architecture, "stage_2", 8192, spread))


@pytest.fixture
def four_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}
    for name, value in {**variables, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)


def refused(*overrides: str, free: float, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr(estimate, "memory_of_processes", lambda number: int(free))
    register()
    accumulation = [f"stage_{stage}.accumulation=4" for stage in (1, 2, 3)]
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=["stage=all", *accumulation, *overrides])
    try:
        check(config, Path("nowhere"))
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.usefixtures("four_processes")
def test_processes_of_a_machine_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each needs is asked for four times, and a teacher in parts needs less of it."""
    config = composed()
    architecture = config.teacher.architecture
    assert architecture is not None
    ddp, cut = (
        4 * weights_bytes(each, architecture, Spread.of(each.parallel, 4))
        + written_bytes(each, architecture, Spread.of(each.parallel, 4))
        for each in (composed("parallel.strategy=ddp"), composed(*CUT))
    )
    assert cut < ddp
    said = refused("parallel.strategy=ddp", free=ddp - 1, monkeypatch=monkeypatch)
    assert said is not None
    assert said.startswith("4 processes on this machine, a teacher of ")
    assert "parallel.frozen=sharded" in said
    # of the batch, which needs more than is left, nothing is said before the weights have room
    said = refused(*CUT, free=cut, monkeypatch=monkeypatch)
    assert said is not None
    assert said.startswith("4 processes on this machine, stage_1.batch_size=")
    assert refused(*CUT, free=100e9, monkeypatch=monkeypatch) is None


def test_what_is_held_does_not_grow_with_moments_of_a_run_that_trains_nothing() -> None:
    config = composed("stages=[]")
    assert trained_bytes(config, SMALL) == 0
    assert weights_bytes(config, SMALL) == 4 * TEACHER
