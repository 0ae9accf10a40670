"""Whatever happened to a line since it was written, its row is not among those that are read."""

import io
import json
import math
import random
import tracemalloc
from collections.abc import Callable

import pytest

from lab.core.runs.checked_lines import Findings, encode, read
from lab.core.runs.row_store import RowStore

ROWS = [{"cell": index, "risk": index / 7, "label": f"ä {index}"} for index in range(12)]
LINES = encode(ROWS, 0)[0].splitlines(keepends=True)


def of(*lines: bytes) -> tuple[list[dict[str, object]], list[int]]:
    """The rows that are read, and the numbers of the damaged lines."""
    found = Findings()
    return list(read(io.BytesIO(b"".join(lines)), found)), found.damaged


def test_a_line_is_an_object_that_anybody_can_read() -> None:
    assert [json.loads(line) for line in LINES] == [
        {**row, "crc32": line[-11:-3].decode()} for row, line in zip(ROWS, LINES, strict=True)
    ]
    assert of(*LINES) == (ROWS, [])


def test_numbers_that_are_not_finite_are_null_and_come_back() -> None:
    rows = [{"risk": math.nan, "n": 1, "theory": math.inf, "low": -math.inf}, {"risk": 0.1, "label": "nan"}]
    lines = encode(rows, 0)[0].splitlines(keepends=True)
    strict = json.loads(lines[0], parse_constant=pytest.fail)
    assert (strict["risk"], strict["n"], strict["theory"]) == (None, 1, None)
    found, damaged = of(*lines)
    assert repr(found) == repr(rows)
    assert damaged == []


def test_lines_that_are_appended_later_go_on_with_the_checksum() -> None:
    first, crc = encode(ROWS[:5], 0)
    assert first + encode(ROWS[5:], crc)[0] == b"".join(LINES)


def test_every_changed_bit_costs_its_own_line_only() -> None:
    damaged = LINES[5]
    for place in range(len(damaged) - 1):
        for bit in range(8):
            changed = bytearray(damaged)
            changed[place] ^= 1 << bit
            if b"\n" in changed[:-1]:
                continue
            rows, numbers = of(*LINES[:5], bytes(changed), *LINES[6:])
            assert (rows, numbers) == (ROWS[:5] + ROWS[6:], [6])


def doubled(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[3], *lines[4:]]


def dropped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], *lines[6:]]


def swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[5], lines[4], *lines[6:]]


def all_doubled(lines: list[bytes]) -> list[bytes]:
    return lines * 2


def first_gone(lines: list[bytes]) -> list[bytes]:
    return lines[1:]


def empty_line(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], b"\n", *lines[4:]]


@pytest.mark.parametrize("damage", [doubled, dropped, swapped, all_doubled, first_gone, empty_line])
def test_lines_in_the_wrong_place_are_found(damage: Callable[[list[bytes]], list[bytes]]) -> None:
    _, numbers = of(*damage(LINES))
    assert numbers


def test_a_file_cut_at_any_byte_gives_the_complete_lines() -> None:
    whole = b"".join(LINES)
    for length in range(0, len(whole), 7):
        found = Findings()
        rows = list(read(io.BytesIO(whole[:length]), found))
        assert rows == ROWS[: whole[:length].count(b"\n")]
        assert (found.size, found.damaged) == (whole[:length].rfind(b"\n") + 1, [])


def test_random_bytes_are_no_rows() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    rows, _ = of(draw.randbytes(20_000) + b"\n", *LINES)
    assert rows == ROWS[1:]


def test_rows_come_back_from_little_memory_as_they_were() -> None:
    odd = [{"a": -0.0, "b": None}, {"a": 3, "b": True}, {}, {"a": 2**70, "b": "x"}, {"b": 1.5, "a": [1]}]
    rows = [*ROWS, *odd, *ROWS]
    store: RowStore[dict[str, object]] = RowStore(rows)
    assert repr(list(store)) == repr(rows)
    assert repr([store[place] for place in range(len(store))]) == repr(rows)
    assert repr(store[3:15]) == repr(rows[3:15])
    assert repr(store[-1]) == repr(rows[-1])


def test_rows_take_less_memory_than_their_lines() -> None:
    lines = encode(({"cell": index, "kind": "measured", "risk": index / 7, "gap": 1.5} for index in range(3000)), 0)[0]
    tracemalloc.start()
    try:
        store = RowStore(read(io.BytesIO(lines), Findings()))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(store) == 3000
    assert size < len(lines)
