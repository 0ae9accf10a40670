"""`lab compare --over-seeds`: one table of sweeps, and what is left out of it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from reference.parquet import read_table

Typed = Callable[..., Any]


@pytest.mark.slow
def test_sweeps_are_one_table_with_means_over_seeds(typed: Typed, outputs: Path, tiny: tuple[str, ...]) -> None:
    sweeps = outputs / "hmm_risk" / "sweeps"
    for name, words in {"one": ("num_train=20,30", "seed=1,2"), "two": ("seed=2,3",)}.items():
        done = typed("hmm-risk", "sweep", "-m", *tiny, "figures=[]", *words, f"hydra.sweep.dir={sweeps / name}")
        assert done.code == 0, done.err
    # has not ended
    status = sweeps / "one" / "2" / "status.json"
    (status.parent / "SHA256SUMS").unlink()
    status.write_text(json.dumps(json.loads(status.read_text()) | {"status": "interrupted"}))

    done = typed("compare", "one", "two", "--over-seeds", "--csv")
    assert done.code == 0, done.err
    assert "1 of 6 runs are not finished, and left out: one/2" in done.err
    assert "two/0 repeats seed=2 of another run" in done.err
    rows = [row for row in csv.DictReader(io.StringIO(done.out)) if row["quantity"] == "excess_risk"]
    assert [(row["num_train"], row["point"], row["runs"]) for row in rows] == [
        (size, f"p = {width}", runs) for size, runs in (("20", "3"), ("30", "1")) for width in (4, 10, 40)
    ]
    of_runs = []
    for place in ("one/0", "one/1", "two/1"):
        table = read_table(sweeps / place / "table.parquet")
        of_runs.append(fmean(row["excess_risk"] for row in table if row["width"] == 4))
    assert abs(float(rows[0]["value"]) / fmean(of_runs) - 1) < 1e-12
    content = json.loads(typed("compare", "one", "two", "--over-seeds", "--json").out)
    assert content["keys"] == ["num_train"]
    assert [len(group["runs"]) for group in content["groups"]] == [3, 1]
    printed = typed("compare", "one", "two", "--over-seeds", "--quantity", "bias").out
    assert printed.startswith("bias: means over seeds")
    done = typed("compare", "one/2", "--over-seeds")
    assert (done.code, "no run has finished" in done.err) == (2, True)
