"""`lab.load`: the model that a name means, what it answers and what is behind its layers."""

import re
from datetime import date, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from PIL import Image

import lab
from lab.core.data.jinja_chat import FIXED_DAY
from lab.core.errors import CheckpointError, ConfigError, InputError, LabError, RunError
from lab.core.models.decoder import Inputs
from lab.core.models.generation import SamplingConfig
from lab.core.models.text_model import TextModel
from lab.experiments.distill.generation.command import Request, answer
from lab.experiments.distill.hidden_states import layers_of, states_behind
from lab.experiments.distill.selector import StudentSelector, selected, selected_by
from reference.text_checkpoint import write_text_checkpoint

QUESTION = "How many pictures show a bag?"
NO_IMAGE = "must be the path of a file or an image of Pillow; PIL.Image.fromarray makes one of an array"


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
    with pytest.raises(InputError, match=r"^model='x+… cannot be looked up \(File name too long\); give another path$"):
        lab.load("x" * 5000)
    with pytest.raises(AttributeError, match="module lab has no lode"):
        lab.lode  # noqa: B018


def test_half_of_a_character_is_refused(tmp_path: Path) -> None:
    folder = write_text_checkpoint(tmp_path / "model")
    for is_raw in (True, False):
        with pytest.raises(InputError, match=r"^prompt='a.udcff' has half of a character; give text in UTF-8$"):
            lab.load(folder).generate("a\udcff", is_raw=is_raw)


def test_options_of_prompts_that_a_model_does_not_use_are_refused(tmp_path: Path) -> None:
    folder = write_text_checkpoint(tmp_path / "model")
    for options, message in (
        ({"system": "Be brief"}, "system='Be brief': the model has no chat template to write it with; leave it out"),
        ({"max_tiles": 3}, "max_tiles=3: this model reads text only; leave it out"),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            lab.load(folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": 3}, "model=3 must be a name or a path; give text or a pathlib.Path"),
        ({"device": torch.device("cpu")}, "device=device(type='cpu') must be text; put it in quotation marks"),
        ({"precision": torch.float32}, "precision=torch.float32 must be text; put it in quotation marks"),
        ({"system": 3}, "system=3 must be text; put it in quotation marks"),
        ({"max_tiles": "a"}, "max_tiles='a' must be a whole number; give one, such as 8"),
        ({"max_tiles": True}, "max_tiles=True must be a whole number; give one, such as 8"),
    ],
)
def test_what_loads_no_model_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        lab.load(**{"model": "shipped", **options})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("generate", {"prompt": 3}, "prompt=3 must be text; put it in quotation marks"),
        ("generate", {"max_new_tokens": 1.5}, "max_new_tokens=1.5 must be a whole number; give one, such as 8"),
        ("generate", {"seed": "1"}, "seed='1' must be a whole number; give one, such as 8"),
        ("generate", {"temperature": "hot"}, "temperature='hot' must be a number; give one, such as 0.5"),
        ("generate", {"temperature": 1, "top_k": 2.5}, "top_k=2.5 must be a whole number; give one, such as 8"),
        ("generate", {"temperature": 1, "top_p": "a"}, "top_p='a' must be a number; give one, such as 0.5"),
        ("generate", {"is_raw": "no"}, "is_raw='no' must be True or False; give one of the two"),
        ("generate", {"day": "today"}, "day='today' must be a day; give one, such as datetime.date(2024, 7, 26)"),
        ("generate", {"images": "a.png"}, "images='a.png' must be a list; write images=[…], also for a single image"),
        (
            "states",
            {"images": Path("a")},
            "images=PosixPath('a') must be a list; write images=[…], also for a single image",
        ),
        ("states", {"images": [3]}, f"images[0]=3 {NO_IMAGE}"),
        ("generate", {"images": [np.zeros((2, 2), int)]}, f"images[0]=array([[0, 0], [0, 0]]) {NO_IMAGE}"),
        ("generate", {"images": ["x" * 300]}, f"images[0]='{'x' * 59}… cannot be looked up (File name too long)"),
        ("states", {"prompt": None}, "prompt=None must be text; put it in quotation marks"),
        ("states", {"layers": ["1"]}, "layers[0]='1' must be a whole number; give one, such as 8"),
        ("states", {"layers": 1}, "layers=1 must be a list; write layers=[…]"),
        ("states", {"day": datetime(2024, 7, 26)}, "day=datetime.datetime(2024, 7, 26, 0, 0) must be a day; give one"),
        ("read", {"images": "a.png", "is_raw": False}, "images='a.png' must be a list; write images=[…]"),
        ("read", {"images": [], "is_raw": None}, "is_raw=None must be True or False; give one of the two"),
        ("read_turns", {"turns": "a", "images": []}, "turns='a' must be a list; write turns=[…]"),
    ],
)
def test_an_argument_of_another_type_is_refused_by_name(
    teacher: Path, method: str, options: dict[str, Any], message: str
) -> None:
    question = {"read": {"text": QUESTION}, "read_turns": {}}.get(method, {"prompt": QUESTION})
    with pytest.raises(LabError, match=f"^{re.escape(message)}") as refused:
        getattr(lab.load(teacher), method)(**{**question, **options})
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_are_numbers(teacher: Path) -> None:
    loaded = lab.load(teacher, max_tiles=np.int64(1))  # type: ignore[arg-type]
    expected = loaded.generate(QUESTION, max_new_tokens=4, temperature=0.5, seed=3)
    options: dict[str, Any] = {"max_new_tokens": np.int64(4), "temperature": np.float32(0.5), "seed": np.int32(3)}
    assert loaded.generate(QUESTION, **options) == expected
    assert list(loaded.states(QUESTION, layers=[np.int64(1)])) == [1]  # type: ignore[list-item]


@pytest.mark.parametrize("kind", ["turned", "16 bits", "palette"])
def test_an_image_in_memory_is_that_of_its_file(teacher: Path, tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 36, 3), dtype=np.uint8)
    path = tmp_path / ("a.jpg" if kind == "turned" else "a.png")
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(path, exif=exif)
    elif kind == "16 bits":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(pixels).quantize(8).save(path, transparency=bytes([0, 128, 255]))
    loaded = lab.load(teacher)
    expected = loaded.read(QUESTION, [path], is_raw=False).pixel_values
    assert expected is not None
    for image in (str(path), Image.open(path)):
        found = loaded.read(QUESTION, [image], is_raw=False).pixel_values
        assert found is not None
        assert found.equal(expected)


def test_an_image_that_was_cut_off_is_refused(teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    message = r"^images\[0\] cannot be read \(.*\); give an image that Pillow can load$"
    with Image.open(path) as image, pytest.raises(InputError, match=message):
        lab.load(teacher).generate(QUESTION, images=[image])


class Someday(date):
    """Today is a day that the tests choose."""

    @classmethod
    def today(cls) -> Self:
        return cls(2031, 2, 3)


def test_an_answer_is_of_today_where_the_template_writes_the_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_text_checkpoint(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}")
    for module in ("generation.command", "loaded"):
        monkeypatch.setattr(f"lab.experiments.distill.{module}.date", Someday)
    loaded = lab.load(folder, device="cpu")
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.0, "seed": 5}
    answers = {
        day: loaded.generate(f"{day:%d %b %Y} why", is_raw=True, **options)
        for day in (Someday.today(), date(2024, 3, 9), FIXED_DAY)
    }
    assert len(set(answers.values())) == 3
    request = Request(
        model=str(folder),
        selector=StudentSelector(),
        prompt="why",
        images=[],
        is_raw=False,
        system=None,
        max_tiles=None,
        sampling=SamplingConfig(temperature=1.0),
        seed=5,
        max_new_tokens=24,
        precision=None,
        device="cpu",
        products="torch",
    )
    assert loaded.generate("why", **options) == answer(request, len).text == answers[Someday.today()]
    assert loaded.generate("why", day=date(2024, 3, 9), **options) == answers[date(2024, 3, 9)]
    written = loaded.states(f"{FIXED_DAY:%d %b %Y} why", layers=[-1], is_raw=True)[2]
    assert loaded.states("why", layers=[-1])[2].equal(written)
    assert not loaded.states("why", layers=[-1], day=Someday.today())[2].equal(written)


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
    # and so may a run
    Path("outputs/distill/runs/run@2").mkdir(parents=True)
    assert selected("run@2") == ("run@2", StudentSelector())
    assert selected("run@2@3") == ("run@2", StudentSelector(stage=3))


def test_either_the_word_or_options_choose_a_student() -> None:
    assert selected_by("445692", StudentSelector(stage=1)) == ("445692", StudentSelector(stage=1))
    assert selected_by("445692@2:two", StudentSelector()) == ("445692", StudentSelector(2, "two"))
    with pytest.raises(ConfigError, match="445692@2 chooses a student, and so do --stage, --variant and --replicate"):
        selected_by("445692@2", StudentSelector(replicate=1))


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


def test_layers_behind_the_last_one_that_is_asked_for_do_not_run(tmp_path: Path) -> None:
    model = lab.load(write_text_checkpoint(tmp_path / "model")).model
    first, second = (layer.layer for layer in model.mixer_layers())
    ran: list[object] = []
    for layer in (first, second):
        layer.register_forward_hook(lambda module, inputs, output: ran.append(module))
    inputs = Inputs(tokens=torch.tensor([[7, 8, 9]]))
    early = states_behind(model, inputs, [1])[1]
    assert ran == [first]
    assert early.equal(states_behind(model, inputs, [1, 2])[1])
    assert ran == [first, first, second]


def test_a_name_with_folders_may_be_that_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path))
    run = tmp_path / "hmm_risk" / "runs" / "x"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"seed": 0}')
    with pytest.raises(RunError, match="is not a run of `lab distill`"):
        lab.load("hmm_risk/runs/x")
    with pytest.raises(CheckpointError, match="runs/gone does not exist"):
        lab.load("hmm_risk/runs/gone")
