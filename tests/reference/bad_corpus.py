"""A file of conversations about pictures, some of them bad in known ways."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def _content(picture: bytes) -> dict[str, bytes]:
    """Files that are no whole picture, made of one that is."""
    # the header of a PNG says a billion pixels
    header = b"IHDR" + (32_768).to_bytes(4, "big") * 2 + picture[24:29]
    huge = picture[:12] + header + zlib.crc32(header).to_bytes(4, "big") + picture[33:]
    return {"cut.jpg": picture, "empty.png": b"", "text.png": b"no picture at all", "huge.png": huge}


WORDS = ("bag", "boot", "even", "odd", "same", "different")
# the reason that is to be counted, and what is changed in a record
FAULTS: dict[str, Callable[[dict[str, Any]], dict[str, Any] | str]] = {
    "missing image": lambda record: {**record, "image": "gone.png"},
    "cut image": lambda record: {**record, "image": "cut.jpg"},
    "empty image file": lambda record: {**record, "image": "empty.png"},
    "no image": lambda record: {**record, "image": "text.png"},
    "too many pixels": lambda record: {**record, "image": "huge.png"},
    "wrong JSON": lambda record: json.dumps(record)[:-2],
    "too long": lambda record: {**record, "conversations": _turns("What is " + "even and " * 600 + "even?")},
    "too many image marks": lambda record: {**record, "conversations": _turns("<image> <image> What is even?")},
}


def _turns(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "even"}]


def write_corpus(folder: Path, *, num_samples: int, num_of_each: int) -> tuple[Path, dict[int, str]]:
    """Write `corpus.jsonl` and its pictures.

    Returns:
        Where the file is, and for each line that is bad the reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")
    # pictures decide the split of a sample
    for number in range(1, num_samples):
        os.link(folder / "0.png", folder / f"{number}.png")
    Image.fromarray(np.tile(pixels, (8, 8, 1))).save(folder / "whole.jpg")
    for name, content in _content((folder / "0.png").read_bytes()).items():
        (folder / name).write_bytes(content)
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    bad = np.random.default_rng(1).permutation(num_samples)[: num_of_each * len(FAULTS)]
    reasons = {int(place): list(FAULTS)[i % len(FAULTS)] for i, place in enumerate(bad)}
    lines = []
    for number in range(num_samples):
        question = f"<image> What is {WORDS[number % 6]} and {WORDS[number // 6 % 6]}?"
        record: dict[str, Any] = {"id": number, "image": f"{number}.png", "conversations": _turns(question)}
        made = FAULTS[reasons[number]](record) if number in reasons else record
        lines.append(made if isinstance(made, str) else json.dumps(made))
    path = folder / "corpus.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path, {place + 1: reason for place, reason in reasons.items()}
