"""GGUF files as models."""

import os
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import CheckpointError
from lab.core.models.gguf import read_gguf_config, read_gguf_tensors, read_gguf_tokenizer
from reference.tiny_gguf import write_gguf

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["blk.0.ffn_up", "blk.0.attn_q"])
def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path, name: str) -> None:
    """Transformers draws it at random."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path, lacks=name)
    with pytest.raises(CheckpointError, match=r"tiny\.gguf is not whole: missing_keys .*proj\.weight; fetch"):
        read_gguf_tensors(path)


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its configuration, its tokenizer and its weights, whose memory is given back then."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    gguf: Any = pytest.importorskip("gguf")
    parsed: list[Path] = []
    init = gguf.GGUFReader.__init__

    def counted(self: Any, file: Path, *rest: Any) -> None:
        parsed.append(file)
        init(self, file, *rest)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", counted)
    reader = gguf.GGUFReader
    read_gguf_tokenizer(path)
    content = read_gguf_config(path)
    read_gguf_tensors(path)
    assert len(parsed) == 1
    assert gguf.GGUFReader is reader
    content["hidden_size"] = 0
    assert read_gguf_config(path)["hidden_size"] == 32
    read_gguf_tokenizer(path)
    assert len(parsed) == 1
    os.utime(path, ns=(0, 0))
    read_gguf_config(path)
    assert len(parsed) == 2
