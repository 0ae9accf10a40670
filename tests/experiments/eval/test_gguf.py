"""A GGUF file among the models: its numbers are those of transformers, which reads the file by itself."""

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.core.data.prompt_format import TURN_END
from lab.core.data.tokenizers import load_tokenizer
from lab.core.errors import ConfigError, LabError
from lab.core.runs.parquet import read_table
from reference.tiny_gguf import write_gguf
from reference.toy_evaluation import picture, write_tsv

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEXT = "which bag is it? user system assistant which bag? " * 3
OPTIONS = ["it is", "a bag", "which"]


def test_texts_and_choices_are_those_of_transformers(evaluated: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    (tmp_path / "text.txt").write_text(TEXT)
    rows = [{"index": str(place), "question": "which bag is it?", "answer": "B"} for place in range(2)]
    choices = write_tsv(tmp_path / "choices.tsv", [row | dict(zip("ABC", OPTIONS, strict=True)) for row in rows])
    asked = write_tsv(tmp_path / "asked.tsv", rows)
    words = (f"text:{tmp_path / 'text.txt'}", f"likelihood:{choices}", f"questions:{asked}")
    run = evaluated("run", str(path), *words, "context=100", "stride=50", "max_new_tokens=5")
    transformers: Any = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)

    def log_probabilities(ids: list[int]) -> torch.Tensor:
        """Of the token behind each."""
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    def encoded(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    own = load_tokenizer(path)
    opening, end = [] if own.bos_id is None else [own.bos_id], own.id_of(TURN_END)
    ids = [*opening, *encoded(TEXT)]
    assert 20 < len(ids) < 100, "one window"
    of_text = log_probabilities(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum()
    table = read_table(run).to_pylist()
    scores = {(row["task"], row["score"]): row["value"] for row in table if row["kind"] == "score"}
    assert scores[words[0], "cross-entropy"] == pytest.approx(-float(of_text) / (len(ids) - 1), rel=1e-5)
    # a first token that nothing opens is not predicted
    num_bytes = len(TEXT) - (0 if opening else len(tokenizer.decode(ids[:1])))
    assert scores[words[0], "bits per byte"] == pytest.approx(-float(of_text) / math.log(2) / num_bytes, rel=1e-5)
    prompt = f"<s>which bag is it?{TURN_END} it"
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = encoded(prompt)
    for row in (row for row in recorded if row["kind"] == "choice"):
        for value, option in zip(row["log_likelihoods"], OPTIONS, strict=True):
            given = encoded(option)
            found = log_probabilities([*before, *given])[len(before) - 1 : -1]
            assert value == pytest.approx(float(found.gather(1, torch.tensor(given)[:, None]).sum()), rel=1e-5)
    for row in (row for row in recorded if row["kind"] == "answer"):
        answer: list[int] = []
        while len(answer) < 5 and end not in answer:
            answer.append(int(log_probabilities([*before, *answer])[-1].argmax()))
        kept = answer[:-1] if answer[-1] == end else answer
        assert row["prediction"] == tokenizer.decode(kept, clean_up_tokenization_spaces=False).strip()
        assert row["num_prompt_tokens"] == len(before)


def test_what_a_gguf_file_cannot_do_is_refused(evaluated: Callable[..., Path], tmp_path: Path, outputs: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "text.txt").write_text(TEXT)
    row = {"index": "0", "image": picture("red"), "question": "which bag?", "answer": "it"}
    shown = write_tsv(tmp_path / "shown.tsv", [row])
    with pytest.raises(ConfigError, match=r"asks about images, and .*tiny\.gguf reads text only"):
        evaluated("run", str(tmp_path / "tiny.gguf"), f"questions:{shown}")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    for name, content in (("cut.gguf", whole[: len(whole) // 2]), ("other.gguf", b"no such thing")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LabError, match=name) as caught:
            evaluated("run", str(tmp_path / name), f"text:{tmp_path / 'text.txt'}", "context=100", "stride=50")
        assert "\n" not in str(caught.value)
    assert not outputs.exists()
