"""The config.json of a model is read once by each command that opens it."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.core.models.checkpoint import CONFIG

# longer than a quick test may take
pytestmark = pytest.mark.slow

Typed = Callable[..., Any]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each config.json was read since this fixture was made."""
    counted: Counter[Path] = Counter()
    read_text = Path.read_text

    def counting(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == CONFIG:
            counted[path.resolve()] += 1
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", counting)
    return counted


def test_export_and_generate(
    typed: Typed, distilled: Any, reads: Counter[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_OUTPUTS", str(distilled.root))
    # a teacher that an earlier test opened is not read again unless its file is newer
    os.utime(distilled.teacher / CONFIG)
    done = typed("export", "hybrid", str(tmp_path / "student"))
    assert done.code == 0, done.err
    run = distilled.root / "distill" / "runs" / "hybrid"
    assert reads == {(distilled.teacher / CONFIG).resolve(): 1, (run / CONFIG).resolve(): 1}
    reads.clear()
    words = ("--prompt", "How many pictures show a bag?", "--max-new-tokens", "2", "--threads", "1")
    done = typed("generate", str(tmp_path / "student"), *words)
    assert done.code == 0, done.err
    assert reads == {(tmp_path / "student" / CONFIG).resolve(): 1}
