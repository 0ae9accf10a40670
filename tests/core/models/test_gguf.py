"""GGUF files as models."""

from pathlib import Path

import pytest

from lab.core.errors import CheckpointError
from lab.core.models.gguf import read_gguf
from reference.tiny_gguf import write_gguf

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["blk.0.ffn_up", "blk.0.attn_q"])
def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path, name: str) -> None:
    """Transformers draws it at random."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path, lacks=name)
    with pytest.raises(CheckpointError, match=r"tiny\.gguf is not whole: missing_keys .*proj\.weight; fetch"):
        read_gguf(path)
