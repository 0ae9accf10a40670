"""The blocks of docs/python.md run as they stand."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), flags=re.MULTILINE | re.DOTALL
)
# what a line of the page must print, in the order of the blocks
PRINTED = (
    "answer:",
    "measured",
    "[",
    "[",
    "chosen:",
    "nats per token",
    "compiled",
    "nats per answer token",
    "excess_risk_mean",
)
# trains and evaluates
SLOW = "execute("


@pytest.mark.parametrize(
    ("block", "prints"),
    [
        pytest.param(block, prints, id=prints, marks=pytest.mark.slow if SLOW in block else ())
        for block, prints in zip(BLOCKS, PRINTED, strict=True)
    ],
)
def test_a_block_runs_as_it_stands(
    block: str, prints: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_OUTPUTS", str(ROOT / "outputs"))
    exec(compile(block, "docs/python.md", "exec"), {"__name__": "page"})
    assert prints in capsys.readouterr().out


def test_a_block_is_ten_statements_besides_its_imports() -> None:
    for block in BLOCKS:
        statements = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.stmt)]
        assert sum(not isinstance(node, ast.Import | ast.ImportFrom) for node in statements) <= 10, block
