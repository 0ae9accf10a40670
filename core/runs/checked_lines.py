"""JSON lines under a running checksum: a line that was changed, doubled, moved or lost since it was written is found.

Each line is a JSON object whose last member, "crc32", is the CRC-32 of all lines before it and of itself up to there:
proof against accidents, not against intent. The lines are strict JSON: a number of a row that is NaN or infinite is
null, and a member "not_finite" says what it was.
"""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

_MEMBER = "crc32"
_NOT_FINITE = "not_finite"
_LENGTH = len(f', "{_MEMBER}": "00000000"}}\n')


@dataclass(slots=True)
class Findings:
    """What reading a file has found.

    Attributes:
        crc: the checksum after the last line.
        size: bytes up to the end of the last complete line; what follows was cut off.
        damaged: numbers of the lines that are not as they were written, or do not follow the line before them.
    """

    crc: int = 0
    size: int = 0
    damaged: list[int] = field(default_factory=list)


def encode(rows: Iterable[Mapping[str, object]], crc: int) -> tuple[bytes, int]:
    """The lines of some rows.

    Args:
        rows: none of them empty; numbers that are not finite stand in the row itself, not deeper.
        crc: the checksum after the lines before; 0 at the start of a file.

    Returns:
        The lines, and the checksum after them.
    """
    lines = []
    for row in rows:
        body = _strict(row)[:-1].encode()
        crc = zlib.crc32(body, crc)
        lines += [body, _end(crc)]
    return b"".join(lines), crc


def read(file: IO[bytes], found: Findings) -> Iterator[dict[str, Any]]:
    """The rows of a file, one at a time, without those that are damaged; `found` is filled on the way.

    With what was found before, and a file that stands at `found.size`, it goes on from there.
    After a damaged line the next one counts if it follows what the damaged one says, or what it should say.
    """
    parse = json.JSONDecoder().raw_decode
    # what the checksum before the next line may be
    before: tuple[int, ...] = (found.crc,)
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return
        found.size += len(line)
        body, end = line[:-_LENGTH], line[-_LENGTH:]
        crc = next((crc for start in before if _end(crc := zlib.crc32(body, start)) == end), None)
        row = None
        if crc is not None:
            # a checksum that fits by chance does not make an object
            try:
                row = _row(parse(line.decode())[0])
            except (ValueError, TypeError, KeyError, AttributeError):
                row = None
        if row is None:
            found.damaged.append(number)
            found.crc = zlib.crc32(body, before[0])
            before = (found.crc, *_said(end))
            continue
        assert crc is not None, "only then the line was parsed"
        found.crc, before = crc, (crc,)
        yield row


def tally(rows: Iterable[Mapping[str, object]], crc: int = 0) -> int:
    """The checksum of rows alone, by which they are known again in another place of a file."""
    for row in rows:
        crc = zlib.crc32(json.dumps(row).encode(), crc)
    return crc


def _strict(row: Mapping[str, object]) -> str:
    try:
        return json.dumps(row, allow_nan=False)
    except ValueError:
        words = {name: str(x) for name, x in row.items() if isinstance(x, float) and not math.isfinite(x)}
        return json.dumps({**row, **dict.fromkeys(words), _NOT_FINITE: words}, allow_nan=False)


def _row(content: Any) -> dict[str, Any]:
    """The row of which a line was made."""
    del content[_MEMBER]
    content |= {name: float(word) for name, word in content.pop(_NOT_FINITE, {}).items()}
    return dict(content)


def _end(crc: int) -> bytes:
    return b', "%s": "%08x"}\n' % (_MEMBER.encode(), crc)


def _said(end: bytes) -> tuple[int, ...]:
    """The checksum that a damaged line names, if it names one."""
    try:
        return (int(end[-11:-3], 16),)
    except ValueError:
        return ()
