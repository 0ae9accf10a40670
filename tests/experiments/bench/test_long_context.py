"""`lab bench long-context` and `answer-speed`: their models, what is exact, the paper's way, bytes, and the whole."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.core.errors import ConfigError, InputError, LabError
from lab.core.mixers.mamba2 import Mamba2Options
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.mixers.spec import mixer_like
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import Inputs
from lab.core.models.spec import build
from lab.experiments.bench.accuracy import largest_difference
from lab.experiments.bench.architectures import architecture_of, with_layers
from lab.experiments.bench.long_context import paper
from lab.experiments.bench.long_context.answers import Protocol, answer, prompt_of
from lab.experiments.bench.long_context.exact import Exact
from lab.experiments.bench.long_context.models import Kind, Models, random_models, states_of, weight_tensors
from lab.experiments.bench.long_context.paper import paper_bytes
from lab.experiments.bench.long_context.setting import Setting, parsed
from lab.experiments.bench.long_context.steps import OURS_TOLERANCE, PAPER_TOLERANCE, sizes_of, step_case
from lab.experiments.bench.published import published_curve, published_speed
from lab.experiments.bench.rates import MachinePeak
from lab.experiments.bench.run import main

TOKENS = 40
HEADLINE = 103 * 1024


def tiny(**rotary: object) -> ModelConfig:
    config = architecture_of("hovle_tiny")
    changed = RotaryConfig(theta=1e4, **{"max_length": 512} | rotary)
    stacks = {name: replace(getattr(config, name), rotary=changed) for name in ("embedding", "llm")}
    return replace(config, **stacks)


@pytest.fixture(scope="module")
def models() -> Models:
    return random_models(tiny(), torch.float32)


def test_students_share_the_teachers_weights(models: Models) -> None:
    teacher, linear = models[Kind.teacher], models[Kind.linear]
    for ours, theirs in zip(linear.mixer_layers(), teacher.mixer_layers(), strict=True):
        assert ours.layer.mlp.up.weight is theirs.layer.mlp.up.weight
        assert ours.layer.mixer.vkq_proj.weight is theirs.layer.mixer.wqkv.weight
        assert ours.layer.mixer.o_proj.weight is theirs.layer.mixer.wo.weight
    kept = [layer.index for layer in models[Kind.hybrid].mixer_layers() if layer.layer.mixer.is_attention]
    assert kept == [0, 4]
    states = states_of(models, TOKENS)
    assert states[Kind.hybrid].layers[4].keys is states[Kind.teacher].layers[4].keys
    assert all(layer.length == TOKENS for state in states.values() for layer in state.layers)


@pytest.mark.parametrize("kind", Kind)
def test_the_exact_step_is_that_of_the_whole_model_in_float64(models: Models, kind: Kind) -> None:
    model, state = models[kind], states_of(models, TOKENS)[kind]
    token = torch.tensor([[7]])
    found = Exact(torch.float32).step(model, state, token)
    wide = build(model.config, dtype=torch.float64).to_empty(device="cpu")
    for layer, other in zip(wide.mixer_layers(), model.mixer_layers(), strict=True):
        if not other.layer.mixer.is_attention:
            layer.layer.mixer = mixer_like(layer.layer.mixer, Mamba2Options()).to_empty(device=torch.device("cpu"))
    wide.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    twin = wide.allocate_state(1, max_length=TOKENS + 1)
    for mine, theirs in zip(twin.layers, state.layers, strict=True):
        mine.length = theirs.length
        for one, another in zip(mine.tensors(), theirs.tensors(), strict=True):
            one.copy_(another)
    with torch.no_grad():
        expected = wide(Inputs(tokens=token), twin)[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rotary", [{}, {"kind": RotaryKind.dynamic, "factor": 2.0, "max_length": 16}])
def test_every_candidate_agrees_with_what_is_exact(rotary: dict[str, object], dtype: torch.dtype) -> None:
    config = tiny(**rotary)
    setting = Setting(teacher="hovle_tiny", precision=str(dtype)[6:], num_layers=8, lengths=(TOKENS,), config=config)
    case, _ = step_case(setting, random_models(config, dtype), TOKENS, MachinePeak(threads=1))
    candidates = {each.name: each for each in (case.ours, *case.others)}
    assert {*Kind, paper.NAME} <= candidates.keys()
    for name in (*Kind, paper.NAME):
        candidate = candidates[str(name)]
        assert candidate.difference(candidate.run()) <= candidate.tolerance
    # a teacher's step is the same again, and other scores would be seen
    teacher = candidates[Kind.teacher]
    scores = teacher.run().clone()
    assert torch.equal(teacher.run(), scores)
    assert teacher.difference(scores.roll(1, dims=1)) > PAPER_TOLERANCE[dtype] > OURS_TOLERANCE[dtype]


def test_a_wrong_token_in_the_cache_would_be_seen() -> None:
    config = tiny()
    models = random_models(config, torch.float32)
    states = states_of(models, TOKENS)
    token = torch.tensor([[1]])
    exact = Exact(torch.float32).step(models[Kind.teacher], states[Kind.teacher], token)
    states[Kind.teacher].layers[3].values[:, :, 17] = 0
    changed = Exact(torch.float32).step(models[Kind.teacher], states[Kind.teacher], token)
    assert largest_difference([changed], [exact]) > 10 * OURS_TOLERANCE[torch.float32]


@pytest.mark.parametrize("kind", Kind)
def test_an_answer_is_that_of_one_pass(models: Models, kind: Kind) -> None:
    protocol = Protocol(visual=8, text=4, new=6)
    prompt = prompt_of(tiny(), protocol, torch.float32)
    assert prompt.tokens.shape == (1, 12)
    assert len(prompt.pixel_values) == 2
    following = torch.randint(5, 90, (1, protocol.new - 1), generator=torch.Generator().manual_seed(0))
    whole = replace(prompt, tokens=torch.cat([prompt.tokens, following], dim=1))
    expected = Exact(torch.float32).whole(models[kind], whole)
    with torch.no_grad():
        found = [answer(models[kind], prompt, following, is_paper=False)[0]]
        if kind is Kind.teacher:
            found.append(answer(models[kind], prompt, following, is_paper=True)[0])
    assert all(largest_difference([scores], [expected]) < 1e-5 for scores in found)


def test_bytes_are_those_of_the_papers_model() -> None:
    config = architecture_of("hovle_2p6b")
    sizes = {}
    for kind in Kind:
        model = build(config, dtype=torch.bfloat16)
        for layer in model.mixer_layers():
            if not kind.keeps_attention(layer.index):
                layer.layer.mixer = mixer_like(layer.layer.mixer, Mamba2Options())
        sizes[kind] = sizes_of(kind, model, model.allocate_state(1, max_length=HEADLINE), HEADLINE)
        weights = sum(tensor.numel() for tensor in weight_tensors(model))
        assert weights == pytest.approx({"teacher": 2.203e9, "hybrid": 2.305e9, "linear": 2.339e9}[kind], rel=1e-3)
    least = {kind: size.least for kind, size in sizes.items()}
    assert least[Kind.teacher] / least[Kind.linear] == pytest.approx(3.87, abs=0.01)
    assert least[Kind.teacher] / least[Kind.hybrid] == pytest.approx(2.25, abs=0.01)
    teacher = build(config, dtype=torch.bfloat16)
    assert paper_bytes(teacher, HEADLINE) / 2**30 == pytest.approx(3.219 + 0.40, abs=0.01)
    assert paper_bytes(teacher, 1024) / 2**30 == pytest.approx(0.5 + 0.004, abs=0.001)


def test_layers_are_shared_out_among_stacks() -> None:
    config = architecture_of("hovle_2p6b")
    assert [stack.num_layers for stack in with_layers(config, 4).decoders] == [1, 3]
    assert [stack.num_layers for stack in with_layers(config, 30).decoders] == [7, 23]
    for count in (1, 33):
        with pytest.raises(ConfigError, match=f"layers={count} must lie in 2 .. 32"):
            with_layers(config, count)


def test_lengths_are_written_as_numbers_of_tokens() -> None:
    assert parsed("103K, 512,1K") == (512, 1024, HEADLINE)
    for text in ("1k", "0", "1K,,2K", "-1", ""):
        with pytest.raises(InputError, match="is not a length; write numbers of tokens"):
            parsed(text)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ssd", {"lengths": "1K"}, "--lengths is for lab bench long-context; leave it out"),
        ("answer-speed", {"lengths": "1K"}, "--lengths is for lab bench long-context; leave it out"),
        ("decode", {"teacher": "x"}, "--teacher is for lab bench answer-speed and long-context; leave it out"),
        ("long-context", {"teacher": "hovle"}, "teacher=hovle: choose from hovle_2p6b, hovle_tiny"),
        ("long-context", {"precision": "float16"}, "precision=float16: choose from bfloat16, float32"),
        ("long-context", {"layers": "two"}, "layers=two: give a whole number"),
        ("long-context", {"lengths": "513", "teacher": "hovle_tiny"}, "lengths=513: hovle_tiny can take at most 511"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        main(name, quick=True, options=options)


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting.of({}, quick=False)
    free = 19.1e9
    monkeypatch.setattr("lab.experiments.bench.long_context.setting.available_memory", lambda: free)
    assert setting.fits(HEADLINE, Kind.hybrid)
    assert not setting.fits(HEADLINE, Kind.teacher)
    fewer = setting.with_fewer_layers(HEADLINE)
    assert fewer is not None
    assert 28 < fewer.num_layers < 32
    assert fewer.needed(HEADLINE, Kind.teacher) <= free


def test_published_numbers_are_those_that_the_figure_prints() -> None:
    for quantity, printed in (("latency_ms", (142.65, 10.54, 6.94)), ("memory_gb", (21.69, 8.64, 5.22))):
        names = ("HoVLE", "mmMamba-hybrid", "mmMamba-linear")
        assert tuple(published_curve(name, quantity)[HEADLINE] for name in names) == printed
    assert 128 * 1024 not in published_curve("HoVLE", "memory_gb")
    assert published_speed("mmMamba-linear")["tokens_per_s"] == 132.43


@pytest.mark.slow
def test_both_commands_compare_time_and_write(lab: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    few = ("--quick", "--repeats", "1", "--json")
    done = lab("bench", "long-context", *few, str(path), "--lengths", "32,64")
    assert done.code == 0, done.err
    content = json.loads(path.read_text())
    assert [entry["num_tokens"] for entry in content["lengths"]] == [32, 64]
    assert all(entry["resident"].keys() == set(Kind) for entry in content["lengths"])
    for figure in ("latency", "memory"):
        for suffix in ("png", "pdf", "parquet", "txt", "tex"):
            assert (tmp_path / f"long_{figure}.{suffix}").exists()
    path = tmp_path / "answers.json"
    done = lab("bench", "answer-speed", *few, str(path))
    assert done.code == 0, done.err
    content = json.loads(path.read_text())
    assert content["parts"]["prompt_s"].keys() == {*Kind, paper.NAME}
