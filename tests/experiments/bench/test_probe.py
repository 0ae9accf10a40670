"""`lab bench probe`: the curve of a probe against a loop of scikit-learn's, compared first."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_the_command_compares_times_and_writes(lab: Callable[..., Any], tmp_path: Path) -> None:
    done = lab("bench", "probe", "--quick", "--repeats", "1", "--json", str(tmp_path / "result.json"))
    assert done.code == 0, done.err
    (case,) = json.loads((tmp_path / "result.json").read_text())["cases"]
    statuses = {row["status"] for row in case["rows"]}
    # scikit-learn may be missing
    assert "timed" in statuses
    assert statuses <= {"timed", "missing"}
