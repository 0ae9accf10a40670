"""JSON lines under a running checksum: a line that was changed, doubled, moved or lost since it was written is found.

Each line is a JSON object whose last member, "crc32", is the CRC-32 of all lines before it and of itself up to there:
proof against accidents, not against intent.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

_MEMBER = "crc32"
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
    """The lines of some rows, infinity and NaN in the form that Python's json and pandas read.

    Args:
        rows: none of them empty.
        crc: the checksum after the lines before; 0 at the start of a file.

    Returns:
        The lines, and the checksum after them.
    """
    lines = []
    for row in rows:
        body = json.dumps(row)[:-1].encode()
        crc = zlib.crc32(body, crc)
        lines += [body, _end(crc)]
    return b"".join(lines), crc


def read(file: IO[bytes], found: Findings) -> Iterator[dict[str, Any]]:
    """The rows of a file, one at a time, without those that are damaged; `found` is filled on the way.

    After a damaged line the next one counts if it follows what the damaged one says, or what it should say.
    """
    parse = json.JSONDecoder().raw_decode
    # what the checksum before the next line may be
    before: tuple[int, ...] = (0,)
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
                row, _ = parse(line.decode())
            except ValueError:
                row = None
        if crc is None or not isinstance(row, dict):
            found.damaged.append(number)
            found.crc = zlib.crc32(body, before[0])
            before = (found.crc, *_said(end))
            continue
        found.crc, before = crc, (crc,)
        del row[_MEMBER]
        yield row


def tally(rows: Iterable[Mapping[str, object]], crc: int = 0) -> int:
    """The checksum of rows alone, by which they are known again in another place of a file."""
    for row in rows:
        crc = zlib.crc32(json.dumps(row).encode(), crc)
    return crc


def _end(crc: int) -> bytes:
    return b', "%s": "%08x"}\n' % (_MEMBER.encode(), crc)


def _said(end: bytes) -> tuple[int, ...]:
    """The checksum that a damaged line names, if it names one."""
    try:
        return (int(end[-11:-3], 16),)
    except ValueError:
        return ()
