"""Tar shards in the convention of WebDataset: members with one name and several endings are a sample.

`NAME.json` holds the record; `NAME.jpg`, `NAME.0.png`, `NAME.1.png` and the like are its pictures, in their order.
"""

import tarfile
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.conversation_files.record import HeldOut, parse
from lab.core.errors import InputError

_PICTURES = frozenset({"bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"})


class TarShard:
    """An indexed, uncompressed archive, 16 bytes a member; see `ConversationFile`."""

    unit = "sample"

    def __init__(self, path: Path, is_held_out: HeldOut) -> None:
        """Find the members; the name of a sample decides its split.

        Raises:
            InputError: if the archive is compressed, cut off or damaged.
            OSError: if the file cannot be read.
        """
        self.path = path
        # of each sample its record (size -1 if it has none), then its pictures
        places, sizes, starts, held_out = array("q"), array("q"), array("q"), bytearray()
        last = None
        try:
            with tarfile.open(path, "r:") as archive:
                while (member := archive.next()) is not None:
                    # it keeps every member that it has met
                    archive.members = []  # type: ignore[attr-defined]  # typeshed does not list it
                    folder, _, name = member.name.rpartition("/")
                    stem, _, ending = name.partition(".")
                    if not member.isreg() or not stem or not ending:
                        continue
                    if (folder, stem) != last:
                        last = folder, stem
                        starts.append(len(places))
                        places.append(0)
                        sizes.append(-1)
                        held_out.append(is_held_out(f"{folder}/{stem}".encode()))
                    if ending.lower() == "json":
                        places[starts[-1]], sizes[starts[-1]] = member.offset_data, member.size
                    elif ending.lower().rpartition(".")[2] in _PICTURES:
                        places.append(member.offset_data)
                        sizes.append(member.size)
        except (tarfile.TarError, EOFError) as error:
            raise InputError(
                f"{path} is cut off, damaged or compressed behind sample {len(starts)} ({error}); give an uncompressed "
                "tar file that is whole"
            ) from None
        starts.append(len(places))
        self._places, self._sizes = np.frombuffer(places, np.int64), np.frombuffer(sizes, np.int64)
        self._starts = np.frombuffer(starts, np.int64)
        self.held_out = np.frombuffer(held_out, np.bool_)

    def __len__(self) -> int:
        return len(self.held_out)

    def read(self, index: int) -> dict[str, Any]:
        """See `ConversationFile.read`; the pictures of the archive are its `image`."""
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
