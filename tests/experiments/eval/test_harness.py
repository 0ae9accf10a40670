"""Models for other tools: likelihoods of a plain pass, answers of `lab generate`, and the tools themselves."""

import importlib
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lab.core.data.chat_template import encode_conversation
from lab.core.data.prompt_format import TURN_END, PromptFormat
from lab.core.errors import ConfigError, InputError
from lab.core.models.decoder import Inputs
from lab.core.models.generation import SamplingConfig
from lab.experiments.distill.generation.command import Request, answer
from lab.experiments.distill.load import open_model
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.eval.served import Asked, Served, asked_of, serve
from reference.harness_tasks import write_tasks
from reference.text_checkpoint import write_text_checkpoint

TEXT = "How many pictures show a bag? zero, one, two. Which colour frames the boot? red and green."
OPTIONS = ["red", "blue and green", "black"]


def opened_at(teacher: Path) -> OpenedModel:
    return open_model(str(teacher), StudentSelector(), device=torch.device("cpu"), precision=None)


def served_at(teacher: Path) -> Served:
    return serve(str(teacher), device="cpu", precision=None, batch_size=1, max_batch_size=None, max_tiles=None)


def log_probability(opened: OpenedModel, before: list[int], ids: list[int]) -> float:
    """One token at a time, from the whole sequence, in float64, among the ids that have a text."""
    sequence, total = list(before), 0.0
    for token in ids:
        logits = opened.model(Inputs(tokens=torch.tensor([sequence])))[0, -1].double()[: len(opened.tokenizer)]
        total += float(logits.log_softmax(-1)[token])
        sequence.append(token)
    return total


def generated(teacher: Path, prompt: str, number: int) -> str:
    request = Request(
        model=str(teacher),
        selector=StudentSelector(),
        prompt=prompt,
        images=[],
        is_raw=True,
        system=None,
        max_tiles=None,
        sampling=SamplingConfig(),
        seed=0,
        max_new_tokens=number,
        precision=None,
        device="cpu",
        products="torch",
    )
    return answer(request, len).text


def test_likelihoods_are_those_of_a_plain_pass(teacher: Path) -> None:
    served, opened = served_at(teacher), opened_at(teacher)
    encode, end = opened.tokenizer.encode, opened.tokenizer.id_of(TURN_END)
    for context, continuation, before in (
        ("Which colour frames the bag?", " red and green", encode("Which colour frames the bag?")),
        ("Which colour ", "frames the bag?", encode("Which colour")),
        # without a token that opens every sequence, the end of a turn stands in front
        ("", TEXT, [end]),
    ):
        split = served.split(context, continuation)
        assert split == (before, encode(continuation))
        found = served.likelihood(*split)
        assert found.value == pytest.approx(log_probability(opened, *split), rel=1e-5)
    with pytest.raises(InputError, match="the continuation '' adds no token"):
        served.split("Which colour", "")
    # of what is too long, the beginning is left out
    many = encode(TEXT) * 60
    assert served.longest < len(many)
    alone = served.likelihood(many[-served.longest - 1 : -3], many[-3:])
    assert served.likelihood(many[:-3], many[-3:]) == alone
    with pytest.raises(InputError, match=f"{len(many)} tokens, the model reads {served.longest}"):
        served.likelihood(encode("red"), many)


def test_a_text_without_anything_to_stand_in_front_of_it_is_refused(tmp_path: Path) -> None:
    served = served_at(write_text_checkpoint(tmp_path / "model"))
    assert served.split("a", "b") == (served.encode("a"), served.encode("b"))
    with pytest.raises(ConfigError, match=r"model: its tokenizer has no opening token.*add one"):
        served.split("", "b")


def test_what_is_likeliest_is_greedy_and_generated(teacher: Path) -> None:
    served, opened = served_at(teacher), opened_at(teacher)
    prompt = opened.tokenizer.encode("Which colour frames the bag?")
    text = served.generate(served.inputs(prompt), Asked((), 6, SamplingConfig()))
    assert text == generated(teacher, "Which colour frames the bag?", 6)
    ids = opened.tokenizer.encode(text)
    assert served.likelihood(prompt, ids).is_greedy
    assert not served.likelihood(prompt, [*ids[:-1], (ids[-1] + 1) % len(opened.tokenizer)]).is_greedy
    stop = text.split()[2]
    assert served.generate(served.inputs(prompt), Asked((stop,), 6, SamplingConfig())) == text[: text.index(stop)]
    assert served.generate(served.inputs(prompt * 999), Asked((), 6, SamplingConfig())) == ""


def test_arguments_of_tasks_are_followed_or_refused() -> None:
    greedy = SamplingConfig()
    assert asked_of({"until": "\n", "do_sample": False, "temperature": 0.7}) == Asked(("\n",), 256, greedy)
    assert asked_of({"until": ["a", ""], "max_new_tokens": 5, "top_p": None, "num_beams": 1}) == Asked(
        ("a",), 5, greedy
    )
    drawn = SamplingConfig(temperature=0.5, top_k=3, top_p=0.9)
    assert asked_of({"max_gen_toks": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.9}) == Asked((), 7, drawn)
    for arguments, message in (({"num_beams": 4}, "num_beams"), ({"best_of": 2}, "best_of=2: generation has no such")):
        with pytest.raises(ConfigError, match=message):
            asked_of(arguments)
    for name in ("batch_size", "max_batch_size"):
        sizes = {"batch_size": 1, "max_batch_size": None, name: 8}
        with pytest.raises(ConfigError, match=f"{name}=8: prompts are read one by one"):
            serve("shipped", device="cpu", precision=None, max_tiles=None, **sizes)
    with pytest.raises(ConfigError, match="precision=int3: choose from"):
        serve("shipped", device="cpu", precision="int3", batch_size=1, max_batch_size=1, max_tiles=None)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A local task of each kind that the tool has."""
    questions = ["Which colour frames the bag?", "Which colour frames the boot?", "How many pictures show a bag?"]
    return write_tasks(tmp_path, questions, OPTIONS, TEXT)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_lm_evaluation_harness_gets_our_numbers(teacher: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tasks / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    lm_eval = pytest.importorskip("lm_eval")
    managed = importlib.import_module("lm_eval.tasks").TaskManager(include_path=str(tasks), include_defaults=False)
    model = importlib.import_module("lab.experiments.eval.harness").TextModel(str(teacher), device="cpu")
    found: Any = lm_eval.simple_evaluate(
        model=model, tasks=["choices", "texts", "answers"], task_manager=managed, bootstrap_iters=0
    )
    opened = opened_at(teacher)
    encode, end = opened.tokenizer.encode, opened.tokenizer.id_of(TURN_END)
    for sample in found["samples"]["choices"]:
        question = sample["doc"]["question"]
        for (value, _), option in zip(sample["filtered_resps"], OPTIONS, strict=True):
            assert float(value) == pytest.approx(log_probability(opened, encode(question), encode(option)), rel=1e-5)
    of_text = log_probability(opened, [end], encode(TEXT))
    bits = -of_text / torch.log(torch.tensor(2.0, dtype=torch.float64)) / len(TEXT.encode())
    assert found["results"]["texts"]["bits_per_byte,none"] == pytest.approx(float(bits), rel=1e-5)
    for sample in found["samples"]["answers"]:
        whole = generated(teacher, sample["doc"]["question"], 5)
        assert sample["filtered_resps"] == [whole.partition("boot")[0]]
    # a chat, as models are trained on it
    history = [{"role": "user", "content": "What?"}]
    ids = encode_conversation(["What?"], [], tokenizer=opened.tokenizer, prompt_format=PromptFormat()).llm_ids
    assert encode(model.apply_chat_template(history)) == ids.tolist()
    history.append({"role": "assistant", "content": "red"})
    assert model.apply_chat_template(history, add_generation_prompt=False).endswith("assistant\nred")


@pytest.fixture
def lmms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of lmms-eval that a model is built on; it has its own environment, too large to install here."""
    base = types.ModuleType("lmms_eval.api.model")

    class Base:
        def __init__(self) -> None:
            self.task_dict: dict[str, Any] = {}
            self.cache_hook = types.SimpleNamespace(add_partial=lambda *anything: None)

    base.lmms = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", base)
    registry = types.ModuleType("lmms_eval.models.registry_v2")
    registry.ModelManifest = types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", registry)
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    bar = types.ModuleType("tqdm")
    bar.tqdm = lambda requests, disable: requests  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm", bar)


@pytest.mark.usefixtures("lmms")
def test_lmms_eval_shows_images_as_lab_eval_does(teacher: Path) -> None:
    # as lmms-eval finds it
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    module, _, name = project["project"]["entry-points"]["lmms_eval.models"]["lab"].partition(":")
    harness = importlib.import_module(module)
    found = getattr(harness, name)()
    assert found.model_id == "lab"
    module, _, name = found.simple_class_path.rpartition(".")
    harness._image_model.cache_clear()
    model = getattr(importlib.import_module(module), name)(str(teacher), device="cpu", batch_size=1)
    harness._image_model.cache_clear()
    picture = Image.new("RGB", (28, 28), "red")
    model.task_dict = {"toy": {"test": [{"images": [picture]}, {"images": ["a film"]}]}}
    question = "Which colour frames the bag?"

    def request(place: int, second: Any) -> Any:
        return types.SimpleNamespace(args=(question, second, lambda row: row["images"], place, "toy", "test"))

    served = served_at(teacher)
    prompt = served.respondent.prompt(f"<image>\n{question}", [picture], max_tiles=6)
    assert model.generate_until([request(0, {"max_new_tokens": 4})]) == [served.respondent.answer(prompt, 4).text]
    ids = served.encode("red and green")
    expected = tuple(served.respondent.log_likelihood(prompt, ids))
    assert model.loglikelihood([request(0, "red and green"), request(0, lambda row: "red and green")]) == [expected] * 2
    with pytest.raises(InputError, match="shows str, and the model reads images"):
        model.generate_until([request(1, {})])
