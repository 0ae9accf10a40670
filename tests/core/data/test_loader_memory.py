"""Memory of the processes that make batches depends neither on the size of a file nor on how many samples were read."""

import json
import subprocess
import sys
from pathlib import Path

import loader_memory
import pytest

MEGA = 1e6


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    words = [sys.executable, loader_memory.__file__, str(tmp_path), "3e8", "2e4"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout)
    print(done.stdout)
    assert found["left out"] == 0
    assert len(found["peaks"]) == 3
    assert max(found["peaks"]) < 500 * MEGA
    early, late = found["held"][3], found["held"][-1]
    # 16,000 samples between the two
    assert all(last - first < 5 * MEGA for first, last in zip(early, late, strict=True))
