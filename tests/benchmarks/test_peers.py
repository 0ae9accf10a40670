"""The libraries that `lab bench` times, as it calls them: small problems, every result compared."""

import json
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

PEERS = {"sklearn": 3, "dynamax": 2, "pomegranate": 1, "hmmlearn": 2}
# what each needs, and how often the cases ask it: four chunk sizes, two headlines, two lengths; transformers' step too,
# and flash-linear-attention's forward alone
SSD_PEERS = {
    "transformers": (("transformers",), 9),
    "mamba-ssm, ssd_minimal_discrete": (("mamba_ssm", "triton", "einops"), 8),
    "flash-linear-attention": (("fla", "einops"), 7),
}


def quick_rows(name: str, path: Path) -> list[dict[str, Any]]:
    # on one core: with two, every small operation on a busy machine waits for the second
    script = (
        "import os; from pathlib import Path\n"
        "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
        "from lab.experiments.bench.run import main\n"
        f"assert main({name!r}, repeats=1, quick=True, json_path=Path({str(path)!r}))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [row for case in json.loads(path.read_text(encoding="utf-8"))["cases"] for row in case["rows"]]
    troubled = [row for row in rows if row["status"] in ("differs", "failed")]
    assert not troubled, troubled
    return rows


def is_installed(*modules: str) -> bool:
    return all(util.find_spec(name) is not None for name in modules)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(is_installed, PEERS)), reason="needs pip install 'ssm-lab[bench]'")
def test_every_installed_peer_agrees_with_the_reference(tmp_path: Path) -> None:
    rows = quick_rows("hmm-risk", tmp_path / "result.json")
    # five of ours, numpy's pseudo-inverse twice, and each peer as often as the cases ask it
    expected = 5 + 2 + sum(times for name, times in PEERS.items() if is_installed(name))
    assert sum(row["status"] == "timed" for row in rows) == expected


@pytest.mark.slow
@pytest.mark.skipif(
    not any(is_installed(*modules) for modules, _ in SSD_PEERS.values()), reason="needs pip install 'ssm-lab[bench]'"
)
def test_every_installed_form_of_the_state_space_operator_agrees_with_the_reference(tmp_path: Path) -> None:
    rows = quick_rows("ssd", tmp_path / "result.json")
    for peer, (modules, times) in SSD_PEERS.items():
        timed = [row for row in rows if row["candidate"].startswith(peer) and row["status"] == "timed"]
        assert len(timed) == (times if is_installed(*modules) else 0), peer
