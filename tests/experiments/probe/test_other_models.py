"""The block of docs/probe.md that writes states of an encoder runs as it stands, and `lab probe` reads its file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.experiments.probe.results import Results

PAGE = Path(__file__).parents[3] / "docs" / "probe.md"
WORDS = [f"word{number}" for number in range(400)]


@pytest.mark.slow
def test_states_of_an_encoder_are_written_as_the_page_says_and_read(
    probe: Callable[..., Path],
    results_of: Callable[[Path], Results],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transformers: Any = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "all-MiniLM-L6-v2"
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS))}
    transformers.BertTokenizer(vocabulary).save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=405, **size)).save_pretrained(folder)
    text = np.random.default_rng(0).choice(WORDS, 64 * 70)
    (tmp_path / "text.txt").write_text(" ".join(text))

    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})

    with np.load("states.npz") as arrays:
        assert arrays["features"].shape == arrays["targets"].shape == (70 * 62, 16)
        assert np.mean(arrays["features"] ** 2, axis=1) == pytest.approx(1, abs=1e-5)
        clusters = arrays["clusters"].reshape(70, 62)
        assert np.unique(clusters).size == 400
        # rows whose next token is the same have the same target
        before = np.argwhere(clusters[:, 1:] == clusters[0, 1])
        targets = arrays["targets"].reshape(70, 62, 16)[before[:, 0], before[:, 1]]
        assert len(targets) > 1
        assert np.ptp(targets, axis=0).max() == 0
    run = probe("features=states.npz", "variants=[as_they_are,distinct]", "widths=[4,16]", "num_train=[40]", "folds=0")
    distinct = {point.curve for point in results_of(run).points}
    assert distinct == {"as they are", "distinct"}
