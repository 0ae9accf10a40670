"""Tar shards in the convention of WebDataset: members with one name and several endings are a sample.

`NAME.json` holds the record; `NAME.jpg`, `NAME.0.png`, `NAME.1.png` and the like are its pictures: those with numbers
in the order of these, others in the order of the archive.
"""

import posixpath
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.conversation_files.record import HeldOut, parse
from lab.core.data.pixels import ENDINGS
from lab.core.errors import InputError

# metadata that WebDataset writers store next to a sample, and that no model reads
_BESIDE = frozenset(
    "__key__ __url__ caption cbor class cls cls2 count csv html id index inx json jsn key md md5 mp msg npy npz pickle "  # noqa: SIM905
    "pkl pt pth pyd sha256 ten tb text transcript tsv txt url xml yaml yml".split()
)
_DIGITS = re.compile(r"[0-9]+")
_BLOCK = 1 << 20


@dataclass(slots=True)
class _Sample:
    """What an archive holds of one sample.

    Attributes:
        record: place and size; None if it has none.
        pictures: the order of each, its place and size.
        fault: why the sample cannot be used; None if it can.
    """

    record: tuple[int, int] | None = None
    pictures: list[tuple["_Order", int, int]] = field(default_factory=list)
    fault: str | None = None


# the ending without its numbers, and these
_Order = tuple[str, tuple[tuple[int, str], ...]]


class TarShard:
    """An indexed, uncompressed archive, 16 bytes a member; see `ConversationFile`."""

    unit = "sample"

    def __init__(self, path: Path, is_held_out: HeldOut) -> None:
        """Find the members; the name of a sample decides its split.

        Raises:
            InputError: if the archive is compressed, cut off or damaged, or is several archives.
            OSError: if the file cannot be read.
        """
        self.path = path
        # of each sample its record (size -1 if it has none), then its pictures
        places, sizes, starts, held_out = array("q"), array("q"), array("q"), bytearray()
        self._faults: dict[int, str] = {}
        for name, sample in _samples(path):
            if sample.fault is not None:
                self._faults[len(starts)] = sample.fault
            starts.append(len(places))
            held_out.append(is_held_out(name.encode(errors="surrogateescape")))
            for place, size in (sample.record or (0, -1), *_in_order(sample.pictures)):
                places.append(place)
                sizes.append(size)
        starts.append(len(places))
        self._places, self._sizes = np.frombuffer(places, np.int64), np.frombuffer(sizes, np.int64)
        self._starts = np.frombuffer(starts, np.int64)
        self.held_out = np.frombuffer(held_out, np.bool_)

    def __len__(self) -> int:
        return len(self.held_out)

    def read(self, index: int) -> dict[str, Any]:
        """See `ConversationFile.read`; the pictures of the archive are its `image`."""
        if index in self._faults:
            raise BadSample(self._faults[index], Reason.wrong_conversation)
        first, stop = (int(start) for start in self._starts[index : index + 2])
        if self._sizes[first] < 0:
            raise BadSample("it has no member with the ending .json; add one", Reason.wrong_conversation)
        with open(self.path, "rb") as file:
            contents = []
            for place in range(first, stop):
                file.seek(self._places[place])
                contents.append(file.read(self._sizes[place]))
        record = parse(contents[0])
        if contents[1:]:
            record = {**record, "images": None, "image": contents[1:]}
        return record

    def number(self, index: int) -> int:
        """The place of a sample in the archive."""
        return index + 1


def _samples(path: Path) -> Iterator[tuple[str, _Sample]]:
    """The samples of an archive and their names."""
    linked: dict[str, tuple[int, int]] | None = None
    last, sample, number = None, _Sample(), 0
    for member in _members(path):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if member.isdir() or not stem or not ending:
            continue
        if (folder, stem) != last:
            if last is not None:
                yield "/".join(last), sample
            last, sample, number = (folder, stem), _Sample(), number + 1
        kind = ending.lower().rpartition(".")[2]
        is_record = ending.lower() == "json"
        if not is_record and kind in _BESIDE:
            continue
        found: tuple[int, int] | None = (member.offset_data, member.size)
        if member.islnk() or member.issym():
            linked = _linked(path) if linked is None else linked
            found = linked.get(_target(member))
        elif not _is_whole(member):
            found = None
        if not is_record and kind not in ENDINGS:
            sample.fault = (
                f"its member with the ending {_shown(ending)} is neither a record, nor a picture that is read, nor "
                "known to be something beside; write the archive without it, or with another ending"
            )
        elif found is None:
            sample.fault = (
                f"its member with the ending {_shown(ending)} is no file that is whole in the archive, but a link to "
                "another place, a device, or a file with holes; write the archive with the file itself"
            )
        elif is_record:
            sample.record = found
        else:
            sample.pictures.append((_order(ending), *found))
    if last is not None:
        yield "/".join(last), sample


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """All members of an archive, which must end where it says so."""
    number = end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                # it keeps every member that it has met
                archive.members = []  # type: ignore[attr-defined]  # typeshed does not list it
                # a damaged size leads backwards
                if archive.offset <= end:
                    raise tarfile.ReadError("wrong size of a member")
                number, end = number + 1, archive.offset
                yield member
            end = archive.offset
    # a header with a right checksum may hold any number
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is cut off, damaged or compressed behind member {number} ({error}); give an uncompressed tar file "
            "that is whole"
        ) from None
    _refuse_rest(path, end, number)


def _refuse_rest(path: Path, end: int, number: int) -> None:
    """Refuse an archive with something behind its last member but zeros, or nothing: `tarfile` stops without a word."""
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise InputError(
                f"{path} ends behind member {number} without the zeros that end an archive; it is cut off: copy it "
                f"again, or, if its writer left them out, add them: head -c 1024 /dev/zero >> {path.name}"
            )
        if any(block):
            raise InputError(f"{path} is damaged behind member {number}; copy it again")
        while rest := file.read(_BLOCK):
            if rest.strip(b"\0"):
                raise InputError(
                    f"{path} has something behind its end, which is behind member {number}: another archive, or a "
                    "damaged member; split it into one file per archive"
                )


def _linked(path: Path) -> dict[str, tuple[int, int]]:
    """Place and size of each file in an archive, by its name: only where one has links, since this takes memory."""
    return {_plain(each.name): (each.offset_data, each.size) for each in _members(path) if _is_whole(each)}


def _shown(ending: str) -> str:
    # the name of a member may be in another encoding
    return f".{ending[-60:]}".encode(errors="backslashreplace").decode()


def _is_whole(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _target(link: tarfile.TarInfo) -> str:
    """The member that a link leads to: a symbolic one from its own folder, a hard one from the root of the archive."""
    return _plain(posixpath.join(posixpath.dirname(link.name), link.linkname) if link.issym() else link.linkname)


def _plain(name: str) -> str:
    return posixpath.normpath(name)


def _order(ending: str) -> _Order:
    numbers = (number.lstrip("0") for number in _DIGITS.findall(ending.rpartition(".")[0]))
    # compared as numbers, however long
    return _DIGITS.sub("0", ending.rpartition(".")[0]), tuple((len(number), number) for number in numbers)


def _in_order(pictures: list[tuple[_Order, int, int]]) -> list[tuple[int, int]]:
    """Places and sizes: those that differ in numbers alone by these, at the place of the first of them."""
    first: dict[str, int] = {}
    for (words, _), _, _ in pictures:
        first.setdefault(words, len(first))
    found = sorted(pictures, key=lambda each: (first[each[0][0]], each[0][1]))
    return [(place, size) for _, place, size in found]
