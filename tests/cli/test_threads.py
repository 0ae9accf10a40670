"""What the command sets for threads before numpy and torch are imported."""

import os
import subprocess
import sys

import pytest

VARIABLES = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, ["1", "10000"], id="nothing"),
        pytest.param({"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "5"}, ["2", "5"], id="both"),
        pytest.param({"OMP_WAIT_POLICY": "active"}, ["1", "unset"], id="a policy"),
    ],
)
def test_what_the_user_sets_is_kept(given: dict[str, str], expected: list[str]) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code = f"import lab.cli.main, os; print(*(os.environ.get(name, 'unset') for name in {VARIABLES}))"
    made = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **given}, text=True, capture_output=True, check=True
    )
    assert made.stdout.split() == expected
