"""`lab.load`: the model that a name means, what it answers and what is behind its layers."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import lab
from lab.core.errors import ConfigError, InputError
from lab.core.models.decoder import Inputs
from lab.core.models.generation import SamplingConfig
from lab.core.models.text_model import TextModel
from lab.experiments.distill.generation.command import Request, answer
from lab.experiments.distill.hidden_states import layers_of, states_behind
from lab.experiments.distill.selector import StudentSelector, selected
from reference.text_checkpoint import write_text_checkpoint

QUESTION = "How many pictures show a bag?"


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 20, "top_p": 0.9}], ids=["greedy", "sampled"])
def test_an_answer_is_that_of_the_command(teacher: Path, tmp_path: Path, options: dict[str, float]) -> None:
    picture = Image.effect_noise((28, 28), 90).convert("RGB")
    picture.save(tmp_path / "a.png")
    sampling = SamplingConfig(**options)  # type: ignore[arg-type]
    request = Request(
        model=str(teacher),
        selector=StudentSelector(),
        prompt=QUESTION,
        images=[tmp_path / "a.png"],
        is_raw=False,
        system="Which colour?",
        max_tiles=None,
        sampling=sampling,
        seed=7,
        max_new_tokens=12,
        precision="float64",
        device="cpu",
        products="torch",
    )
    expected = answer(request, len).text
    loaded = lab.load(teacher, device="cpu", precision="float64", system="Which colour?")
    assert isinstance(loaded, lab.LoadedModel)
    assert loaded.model.dtype is torch.float64
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), picture):
        assert loaded.generate(QUESTION, images=[image], max_new_tokens=12, seed=7, **options) == expected  # type: ignore[arg-type]


def test_states_are_those_of_one_layer_after_another(tmp_path: Path) -> None:
    loaded = lab.load(write_text_checkpoint(tmp_path / "model"), precision="float64")
    model = loaded.model
    assert isinstance(model, TextModel)
    found = loaded.states("a word", layers=[1, -1])
    tokens = loaded.read("a word", [], is_raw=False).tokens
    x = model.llm.tokens(tokens)
    for number, layer in enumerate(model.llm.layers, start=1):
        x = layer(x)
        assert found[number].equal(x[0])
    assert list(found) == [1, 2]
    torch.testing.assert_close(model.logits(model.llm.norm(found[2])), model(Inputs(tokens=tokens))[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_states_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = lab.load(write_text_checkpoint(tmp_path / "model"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokens = loaded.read("a word, and another", [], is_raw=True).tokens
    with torch.no_grad():
        expected = theirs(input_ids=tokens, output_hidden_states=True).hidden_states
    # what transformers gives last is behind the norm
    found = loaded.states("a word, and another", layers=[1], is_raw=True)
    torch.testing.assert_close(found[1], expected[1][0], rtol=1e-5, atol=1e-6)


def test_a_mistake_is_one_line(teacher: Path, tmp_path: Path) -> None:
    loaded = lab.load(teacher)
    with pytest.raises(ConfigError, match="max_new_tokens=0 must be 1 or more"):
        loaded.generate(QUESTION, max_new_tokens=0)
    with pytest.raises(ConfigError, match="top_k=3 with temperature=0"):
        loaded.generate(QUESTION, top_k=3)
    with pytest.raises(ConfigError, match="layers=9: the model has 2 layers"):
        loaded.states(QUESTION, layers=[9])
    for asked in (loaded.generate, loaded.states):
        with pytest.raises(InputError, match="the prompt is empty"):
            asked(" ")
    with pytest.raises(ConfigError, match="precision=half: choose from"):
        lab.load(teacher, precision="half")
    with pytest.raises(ConfigError, match="device=tpu: choose from"):
        lab.load(teacher, device="tpu")
    with pytest.raises(ConfigError, match="max_tiles=0"):
        lab.load(teacher, max_tiles=0)
    with pytest.raises(AttributeError, match="module lab has no lode"):
        lab.lode  # noqa: B018


def test_a_word_says_which_student_of_which_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert selected("445692") == ("445692", StudentSelector())
    assert selected("445692@2") == ("445692", StudentSelector(stage=2))
    assert selected("445692@:two") == ("445692", StudentSelector(variant="two"))
    assert selected("445692@3:two:1") == ("445692", StudentSelector(3, "two", 1))
    assert selected("445692@0::1") == ("445692", StudentSelector(0, None, 1))
    with pytest.raises(ConfigError, match=r"445692@3::\* is all replicates"):
        selected("445692@3::*")
    # a folder may have such a name
    monkeypatch.chdir(tmp_path)
    Path("model@2").mkdir()
    assert selected("model@2") == ("model@2", StudentSelector())


def test_layers_are_numbered_from_either_end() -> None:
    assert layers_of(None, 30) == (5, 15, 25)
    assert layers_of([1, -1, -2], 8) == (1, 8, 7)
    with pytest.raises(ConfigError, match="layers=9: the model has 8 layers"):
        layers_of([9], 8)


def test_nothing_stays_on_a_model_whose_states_were_read(tmp_path: Path) -> None:
    model = lab.load(write_text_checkpoint(tmp_path / "model")).model
    with pytest.raises(InputError):
        states_behind(model, Inputs(tokens=torch.tensor([[7, 10**6]])), [1, 2])
    assert not any(module._forward_hooks for module in model.modules())
    found = states_behind(model, Inputs(tokens=torch.tensor([[7, 8, 9]])), [2])
    assert {number: states.shape for number, states in found.items()} == {2: (1, 3, 16)}
