"""Benchmark files: what is read, what is refused in one line with its row, and how much memory that takes."""

import base64
import csv
import io
import re
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.core.benchmarks.file import BenchmarkFile, open_file
from lab.core.benchmarks.placing import place_images
from lab.core.benchmarks.spec import benchmark_of_file, benchmarks
from lab.core.errors import ConfigError, InputError

Row = Mapping[str, str]
Write = Callable[..., Path]


def picture(colour: str, side: int = 3) -> str:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


RED, BLUE = picture("red"), picture("blue")
ASKED = {"question": "Is it red?", "answer": "Yes", "category": "random"}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(rows: Sequence[Row], name: str = "POPE.tsv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return made


def opened(path: Path, benchmark: str = "pope") -> BenchmarkFile:
    return BenchmarkFile(path, benchmarks()[benchmark])


def colour(image: Image.Image) -> object:
    return image.convert("RGB").getpixel((0, 0))


def test_images_may_be_those_of_another_row_also_of_a_later_one(write: Write) -> None:
    cells = ["two", RED, "0", "", repr([BLUE, RED])]
    indices = ["0", "1", "two", "3", "4"]
    cells[0] = "4"
    rows = [{"index": index, "image": cell, **ASKED} for index, cell in zip(indices, cells, strict=True)]
    rows[0]["image"] = "1"
    rows[2]["image"] = "4"
    file = opened(write(rows))
    # the row without an image is not asked
    assert (len(file), file.num_left_out) == (4, 1)
    found = [[colour(image) for image in file.with_images(place)[1]] for place in range(len(file))]
    red, blue = (255, 0, 0), (0, 0, 255)
    assert found == [[red], [red], [blue, red], [blue, red]]
    assert [question.index for question, _ in file.questions()] == ["0", "1", "two", "4"]
    assert file[2].index == "two"


def test_cells_are_read_as_pandas_wrote_them(write: Write) -> None:
    texts = ['two\nlines, "quoted"', "tab\tin it", "grün 漢字", "None", "a \\n b"]
    rows = [{"index": str(place), **ASKED, "question": text, "A": text} for place, text in enumerate(texts)]
    path = write(rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n3\t", b"\r\n\r\n3\t"))
    file = opened(path)
    questions = [file[place] for place in range(len(file))]
    # pandas, and so VLMEvalKit, reads None as an empty cell
    assert [question.question for question in questions] == [*texts[:3], "", texts[4]]
    assert [question.options for question in questions] == [{"A": text} if text != "None" else {} for text in texts]


def test_images_in_files_are_looked_for_beside_the_table_and_in_its_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "images" / "POPE").mkdir(parents=True)
    Image.new("RGB", (2, 2), "red").save(tmp_path / "images" / "POPE" / "a.png")
    Image.new("RGB", (2, 2), "blue").save(tmp_path / "b.png")
    names = ["a.png", "['a.png', 'b.png']", str(tmp_path / "b.png")]
    rows = [{"index": str(place), "image_path": name, **ASKED} for place, name in enumerate(names)]
    file = opened(write(rows))
    assert [len(file.with_images(place)[1]) for place in range(3)] == [1, 2, 1]


BAD: dict[str, tuple[list[Row], str]] = {
    "column": ([{"index": "0", "question": "?", "answer": "Yes"}], "has no column 'category', which pope needs"),
    "index": ([{"index": "7", **ASKED}, {"index": "7", **ASKED}], "row 2, with index 7, has the index of an earlier"),
    "no index": ([{"index": "1", **ASKED}, {"index": "", **ASKED}], "row 2 has no index"),
    "answer": ([{"index": "5", **ASKED, "answer": "yes"}], "row 1, with index 5, has the answer 'yes', not Yes or No"),
    "base64": (
        [{"index": "5", "image": RED[:80] + "ä" + RED, **ASKED}],
        "row 1, with index 5, its image is not base64",
    ),
    "cut": ([{"index": "5", "image": RED[:-1], **ASKED}], "row 1, with index 5, its image is not base64"),
    "text": ([{"index": "5", "image": "QUJD" * 30, **ASKED}], "row 1, with index 5, image 1 is not an image"),
    "list": ([{"index": "5", "image": "[1, 2", **ASKED}], "row 1, with index 5, its list of images is damaged"),
    "lost": ([{"index": "5", "image": "6", **ASKED}], "row 1, with index 5, has '6' for its image: neither"),
    "circle": ([{"index": "5", "image": "5", **ASKED}], "index 5 is where another row has its image from"),
    "file": ([{"index": "5", "image_path": "gone.png", **ASKED}], "its image gone.png is not there"),
    "twice": ([{"index": "0", **ASKED}], "two columns 'answer'"),
    "cells": ([{"index": "0", **ASKED}, {"index": "1", **ASKED}], "row 2 has 5 cells, the header 4"),
    "quote": ([{"index": "0", **ASKED}, {"index": '"1', **ASKED}], "row 2 has 1 cells, the header 4"),
    "bytes": ([{"index": "0", **ASKED}, {"index": "1", **ASKED}], "row 2 from byte .* is not a row of a TSV file"),
    "empty": ([{"index": "0", **ASKED}], "holds no question"),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "twice": lambda content: content.replace(b"question", b"answer", 1),
    "cells": lambda content: content.replace(b"\n1\t", b"\n1\t\t"),
    "quote": lambda content: content.replace(b'"""1"', b'"1'),
    "bytes": lambda content: content.replace(b"\n1\t", b"\n\xff\t"),
    "empty": lambda content: content.partition(b"\n")[0],
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_file_is_refused_in_one_line_with_its_row(name: str, write: Write) -> None:
    rows, message = BAD[name]
    path = write(rows)
    path.write_bytes(DAMAGE.get(name, bytes)(path.read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_image_that_is_damaged_inside_is_refused_when_it_is_read(write: Write) -> None:
    noise = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    cut = base64.b64encode(file.getvalue()[:1000]).decode()
    benchmark = opened(write([{"index": "0", "image": RED, **ASKED}, {"index": "9", "image": cut, **ASKED}]))
    benchmark.with_images(0)
    with pytest.raises(InputError, match=re.escape("POPE.tsv: the row with index 9 image 1 is not an image")):
        benchmark.with_images(1)


def test_memory_does_not_grow_with_the_images(write: Write) -> None:
    large = base64.b64encode(base64.b64decode(RED) + bytes(100_000)).decode()
    path = write([{"index": str(place), "image": large, **ASKED} for place in range(40)])
    assert path.stat().st_size > 5_000_000
    tracemalloc.start()
    try:
        file = opened(path)
        file.with_images(19)
        for _ in file.questions():
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_500_000


def test_a_row_takes_a_few_bytes(write: Write) -> None:
    def kept(number: int) -> int:
        path = write([{"index": f"row {place}", **ASKED} for place in range(number)], f"POPE_{number}.tsv")
        tracemalloc.start()
        file = BenchmarkFile(path, benchmarks()["pope"])
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(file) == number
        return size

    # what is loaded at first use, too
    kept(10)
    few, many = kept(500), kept(1500)
    assert many - few < 40 * 1000


def test_the_first_row_with_an_earlier_index_is_named(write: Write) -> None:
    indices = ["a", "b", "c", "b", "a", "b"]
    path = write([{"index": index, **ASKED} for index in indices])
    with pytest.raises(InputError, match="row 4, with index b, has the index of an earlier row"):
        BenchmarkFile(path, benchmarks()["pope"])


def test_a_file_is_read_again_once_it_has_changed(write: Write) -> None:
    path = write([{"index": "1", **ASKED}])
    file = open_file(path, benchmarks()["pope"])
    assert open_file(path, benchmarks()["pope"]) is file
    write([{"index": "1", **ASKED}, {"index": "2", **ASKED}])
    assert len(open_file(path, benchmarks()["pope"])) == 2
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        open_file(path, benchmarks()["pope"])


def test_a_choice_may_have_an_option_that_pandas_reads_as_missing(write: Write) -> None:
    row = {"index": "0", "question": "Which?", "A": "a cat", "B": "None", "answer": "B"}
    file = opened(write([row], "ScienceQA_TEST.tsv"), "scienceqa")
    assert file[0].options == {"A": "a cat"}
    for wrong, message in (({"answer": "yes"}, "not a letter of an option"), ({"A": "", "B": ""}, "has no options")):
        with pytest.raises(InputError, match=message):
            opened(write([{**row, **wrong}], "ScienceQA_TEST.tsv"), "scienceqa")


def test_the_name_of_a_file_tells_its_benchmark() -> None:
    names = {"MME": "mme", "MMBench_DEV_EN": "mmbench", "SEEDBench_IMG": "seed_image", "MMMU_DEV_VAL": "mmmu"}
    names |= {"ScienceQA_TEST": "scienceqa", "TextVQA_VAL": "textvqa", "GQA_TestDev_Balanced": "gqa", "MMVet": "mm_vet"}
    assert {stem: benchmark_of_file(stem).name for stem in names} == names
    with pytest.raises(ConfigError, match="tells no benchmark"):
        benchmark_of_file("mine")


def test_images_are_placed_as_internvl_places_them() -> None:
    assert place_images("What?", ["a"]) == ("<image>\nWhat?", ["a"])
    assert place_images("What?", []) == ("What?", [])
    assert place_images("<image> or <image>?", ["a", "b"]) == ("<image> or <image>?", ["a", "b"])
    text, shown = place_images("Is <image 2> like <image 1>?", ["a", "b"])
    assert text == "<Image-1>: <image> <Image-2>: <image>\nIs <Image-1> like <Image-2>?"
    assert shown == ["b", "a"]
    assert place_images("See <image 1>", ["a"]) == ("<image>\nSee <Image-1>", ["a"])
    with pytest.raises(InputError, match="names <image 3>"):
        place_images("See <image 3>", ["a", "b"])


def test_a_benchmark_says_how_it_asks_and_what_a_guess_is_worth() -> None:
    for name, benchmark in benchmarks().items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert benchmark.max_tiles == (12 if name == "mmmu" else 6)
