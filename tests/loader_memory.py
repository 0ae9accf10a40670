"""Memory of a training's process and of those that make its samples: `loader_memory.py FOLDER BYTES SAMPLES`.

A file of conversations of that size is written into the folder, unless it is there, and so many samples with a picture
are read in random order. Printed are, as JSON, the resident memory of each process after every twentieth of the
samples, the largest first, and the peak of each.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lab.core.data.conversations import SOURCE, ConversationsConfig
from lab.core.data.prefetch import Prefetched
from lab.core.data.prompt_format import PromptFormat
from lab.core.data.source_spec import SourceRequest
from lab.core.data.stream import Stream
from lab.experiments.distill.tasks.picture_questions import picture_questions_tokenizer

BATCH, LINE, NUM_PICTURES, LOOKS = 16, 20_000, 50, 20


def write(folder: Path, num_bytes: int) -> Path:
    """Lines of 20 kB, most of it in a key that nobody reads, and a few pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "conversations.jsonl"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        pixels = rng.integers(256, size=(60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    turns = [{"from": "human", "value": "<image>\nWhat is framed in red?"}, {"from": "gpt", "value": "bag"}]
    with path.open("w") as file:
        for number in range(num_bytes // LINE):
            line = {"id": number, "image": f"{number % NUM_PICTURES}.png", "conversations": turns, "note": ""}
            line["note"] = "n" * (LINE - 1 - len(json.dumps(line)))
            file.write(json.dumps(line) + "\n")
    return path


def status(process: int, key: str) -> int:
    """A size of a process in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def family(process: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [process, *(each for child in children for each in family(child))]


def main(folder: Path, num_bytes: int, num_samples: int) -> None:
    """Write, read, and print."""
    prompt_format = PromptFormat(image_size=28, patch_size=7, shuffle_factor=2, max_tiles=4)
    request = SourceRequest(
        split="train",
        seed=0,
        tokenizer=picture_questions_tokenizer(""),
        prompt_format=prompt_format,
        has_lessons=False,
    )
    source = SOURCE.open(ConversationsConfig(path=write(folder, num_bytes)), request)
    stream = Stream(source, batch_size=BATCH, max_length=1000, seed=0)
    held = []
    with Prefetched(stream, processes=2) as batches:
        for number in range(1, num_samples // BATCH + 1):
            batches.next_batch()
            if number % max(1, num_samples // BATCH // LOOKS) == 0:
                held.append([status(process, "VmRSS") for process in family(os.getpid())])
        peaks = [status(process, "VmHWM") for process in family(os.getpid())]
    print(json.dumps({"held": held, "peaks": peaks, "left out": stream.state["num_left_out"]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(float(sys.argv[2])), int(float(sys.argv[3])))
