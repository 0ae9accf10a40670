"""Tables come back as they were written."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import RunError
from lab.core.runs import parquet
from lab.core.runs.parquet import write_columns, write_table
from reference.parquet import read_table

CELLS = st.fixed_dictionaries(
    {"width": st.integers(-(2**63), 2**63 - 1), "risk": st.floats(allow_nan=False), "label": st.text()},
    optional={"gap": st.floats(allow_nan=False)},
)


@given(rows=st.lists(CELLS, min_size=1))
def test_rows_come_back_bit_for_bit(rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    write_table(path, rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    # a value that a row does not have is null, and -0.0 is told from 0.0 by its text
    assert repr(read_table(path)) == repr([{name: row.get(name) for name in names} for row in rows])


def test_infinity_and_nan_come_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [{"a": math.inf}, {"a": -math.inf}, {"a": math.nan}, {"a": None}])
    first, second, third, fourth = (row["a"] for row in read_table(tmp_path / "t.parquet"))
    assert (first, second, fourth) == (math.inf, -math.inf, None)
    assert math.isnan(third)


def test_columns_keep_their_order(tmp_path: Path) -> None:
    write_columns(tmp_path / "t.parquet", {"z": [1, 2], "a": [3.0, 4.0]})
    assert [list(row) for row in read_table(tmp_path / "t.parquet")] == [["z", "a"]] * 2


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, [{"a": 1}])
    with pytest.raises(ValueError, match="Could not convert"):
        write_columns(path, {"a": [1, 2, "text"]})
    assert read_table(path) == [{"a": 1}]


def test_a_wrong_bit_is_no_other_number(tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", [{"width": n % 7, "risk": 1 / (n + 1)} for n in range(500)])
    written = (tmp_path / "table.parquet").read_bytes()
    expected = parquet.read_table(tmp_path)
    for place in range(0, len(written), 31):
        damaged = bytearray(written)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "table.parquet").write_bytes(damaged)
        try:
            assert parquet.read_table(tmp_path).equals(expected)
        except RunError as error:
            assert "is damaged" in str(error)  # noqa: PT017 - either will do


def test_a_wrong_bit_is_no_other_column(tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", [{"accuracy": 0.5, "width": 1}])
    write_columns(tmp_path / "lines.parquet", {"accuracy": [0.5], "width": [1]})
    for name in ("table.parquet", "lines.parquet"):
        written = (tmp_path / name).read_bytes()
        expected, found = parquet.read_table(tmp_path, name), 0
        for place in (match.start() for match in re.finditer(b"accuracy|width", written)):
            damaged = bytearray(written)
            damaged[place] ^= 1
            (tmp_path / name).write_bytes(damaged)
            try:
                assert parquet.read_table(tmp_path, name).equals(expected)
            except RunError as error:
                found += "other names than were written" in str(error)
        assert found == 2


def test_some_columns_of_some_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", [{"width": n, "risk": float(n)} for n in range(5)])
    found = parquet.read_table(tmp_path, columns=["risk"], equal={"width": [1, 3]})
    assert found.to_pylist() == [{"risk": 1.0}, {"risk": 3.0}]
