"""The libraries of the `bench` extra, as `lab bench hmm-risk` calls them: small problems, every result compared."""

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

PEERS = {"sklearn": 3, "dynamax": 2, "pomegranate": 1, "hmmlearn": 2}


@pytest.mark.slow
@pytest.mark.skipif(all(util.find_spec(name) is None for name in PEERS), reason="needs pip install 'ssm-lab[bench]'")
def test_every_installed_peer_agrees_with_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    script = (
        "from pathlib import Path; from lab.experiments.bench.run import main\n"
        f"assert main('hmm-risk', repeats=1, quick=True, json_path=Path({str(path)!r}))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [row for case in json.loads(path.read_text(encoding="utf-8"))["cases"] for row in case["rows"]]
    troubled = [row for row in rows if row["status"] in ("differs", "failed")]
    assert not troubled, troubled
    # five of ours, numpy's pseudo-inverse twice, and each peer as often as the cases ask it
    expected = 5 + 2 + sum(times for name, times in PEERS.items() if util.find_spec(name) is not None)
    assert sum(row["status"] == "timed" for row in rows) == expected
