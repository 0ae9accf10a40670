"""llama.cpp itself gives the logits and the answers of students, and reads texts as their tokenizers do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lab.core.data.prompt_format import TURN_END
from lab.core.data.tokenizers import load_tokenizer
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.folder import ModelFolder
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.smollm3 import SmolLm3Config
from lab.core.stock.gguf_file import GgufPrecision, write_gguf
from lab.core.stock.gguf_granitehybrid import ARCHITECTURE, keys_of, stack_for_llama, tensors_of
from lab.core.stock.gguf_vocabulary import vocabulary
from reference.tiny_gguf import write_json

llama_cpp: Any = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed; the extra `llama` brings it"
)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Student = Callable[..., LanguageModel]
TEXTS = ["which bag is it?", "user: 1234 it's\n\n  we'll\tsee ünï 🚀🚀 ...", "<|im_start|>user\nwhich?<|im_end|>"]
NUM_NEW = 64
# in float32, as its cache
EXACT, HALF = 1e-4, 1e-2
F32 = 0
SIZES: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 32,
    "vocab_size": 320,
    "rms_norm_eps": 1e-5,
}
PLAIN = RotaryConfig(theta=1e4, max_length=256)
LINEAR = RotaryConfig(theta=1e4, max_length=256, kind=RotaryKind.linear, factor=4.0)
LLAMA3 = RotaryConfig(theta=5e5, max_length=256, kind=RotaryKind.llama3, factor=8.0, original_length=32)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "two taps": (LlamaConfig(**SIZES, rotary=PLAIN), {"conv_kernel": 2}),
    "four taps, tied": (LlamaConfig(**SIZES, rotary=PLAIN, tie_output=True), {"conv_kernel": 4}),
    "skip": (LlamaConfig(**SIZES, rotary=PLAIN), {"skip": True}),
    "two timescales": (LlamaConfig(**SIZES, rotary=PLAIN), {"timescales": 2}),
    "two timescales, skip, two taps": (
        LlamaConfig(**SIZES, rotary=PLAIN),
        {"timescales": 2, "skip": True, "conv_kernel": 2},
    ),
    "no bias": (LlamaConfig(**SIZES, rotary=PLAIN), {"conv_bias": False}),
    "linear angles": (LlamaConfig(**SIZES, rotary=LINEAR), {}),
    "llama3 angles": (LlamaConfig(**SIZES, rotary=LLAMA3), {}),
    "no positions": (SmolLm3Config(**SIZES, rotary=PLAIN, layers_without_rotary=[0, 2]), {}),
    "nine heads": (
        LlamaConfig(**SIZES | {"num_heads": 9, "num_kv_heads": 3, "head_dim": 8, "hidden_size": 72}, rotary=PLAIN),
        {},
    ),
}


@pytest.fixture
def words(tmp_path: Path) -> dict[str, Any]:
    """The keys of a tokenizer, whose files are in the test's folder."""
    write_json(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = load_tokenizer(tmp_path)
    ends = frozenset({tokenizer.id_of(TURN_END)})
    return vocabulary(tokenizer, ModelFolder(tmp_path), vocab_size=SIZES["vocab_size"], stop_ids=ends)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    found = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, n_threads_batch=1, type_k=F32, type_v=F32, logits_all=True, verbose=False
    )
    try:
        yield found
    finally:
        found.close()


def write(model: LanguageModel, path: Path, words: dict[str, Any], precision: GgufPrecision) -> None:
    stack, state = stack_for_llama(model), model.state_dict()
    write_gguf(path, ARCHITECTURE, {**keys_of(stack), **words}, lambda: tensors_of(stack, state), precision)


def logits_of(model: LanguageModel, ids: list[int]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        found: npt.NDArray[np.float32] = model(Inputs(tokens=torch.tensor([ids])))[0].numpy()
    return found


def difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_computes_what_the_student_does(
    student: Student, tmp_path: Path, words: dict[str, Any], case: str, record_property: Callable[..., None]
) -> None:
    architecture, options = CASES[case]
    model = student(architecture, **options)
    write(model, tmp_path / "a.gguf", words, GgufPrecision.F32)
    prompt = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    with opened(tmp_path / "a.gguf") as theirs:
        theirs.eval(prompt)
        whole = difference(theirs.scores[: len(prompt)], logits_of(model, prompt))
        record_property("agreement", f"{case} | {whole:.1e}")
        assert whole <= EXACT
        ids = list(prompt)
        for _ in range(NUM_NEW):
            ids.append(int(theirs.scores[len(ids) - 1].argmax()))
            theirs.eval(ids[-1:])
        expected = logits_of(model, ids)
        # token by token through state and cache
        assert difference(theirs.scores[: len(ids)], expected) <= EXACT
        assert ids[len(prompt) :] == expected[len(prompt) - 1 : -1].argmax(axis=1).tolist()


def test_half_precision_is_near(student: Student, tmp_path: Path, words: dict[str, Any]) -> None:
    model = student(LlamaConfig(**SIZES, rotary=PLAIN))
    prompt = list(range(5, 45))
    for precision, most in ((GgufPrecision.F16, HALF), (GgufPrecision.Q8_0, 0.1)):
        path = tmp_path / f"{precision.value}.gguf"
        write(model, path, words, precision)
        with opened(path) as theirs:
            theirs.eval(prompt)
            assert difference(theirs.scores[: len(prompt)], logits_of(model, prompt)) <= most


def test_texts_have_the_ids_of_the_tokenizer(student: Student, tmp_path: Path, words: dict[str, Any]) -> None:
    write(student(LlamaConfig(**SIZES, rotary=PLAIN)), tmp_path / "a.gguf", words, GgufPrecision.F32)
    tokenizer = load_tokenizer(tmp_path)
    with opened(tmp_path / "a.gguf") as theirs:
        for text in TEXTS:
            ids = theirs.tokenize(text.encode(), add_bos=False, special=True)
            assert ids == tokenizer.encode(text)
        assert theirs.token_eos() == tokenizer.id_of(TURN_END)
        assert theirs.tokenize(b"it", add_bos=True)[0] == tokenizer.bos_id
