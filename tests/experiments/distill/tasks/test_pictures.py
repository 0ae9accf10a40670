"""The pictures that ship, those from IDX files, and the archive rebuilt from synthetic sources."""

import gzip
import io
import struct
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8
from numpy import ndarray

from lab.core.data.stream import SPLITS
from lab.core.errors import InputError
from lab.experiments.distill.tasks.build_pictures import NUM_GARMENTS, NUM_TEST_DIGITS, build_archive
from lab.experiments.distill.tasks.pictures import DIGITS, GARMENTS, load_pictures, read_idx_folder

FILES = {
    ("train", 3): "train-images-idx3-ubyte",
    ("train", 1): "train-labels-idx1-ubyte",
    ("test", 3): "t10k-images-idx3-ubyte",
    ("test", 1): "t10k-labels-idx1-ubyte",
}


def idx(array: UInt8[ndarray, "..."]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_folder(folder: Path, *, num_each: int = 3, compress: bool = True) -> dict[str, UInt8[ndarray, "..."]]:
    """Images of noise with every label `num_each` times, for both splits."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for seed, split in enumerate(SPLITS):
        rng = np.random.default_rng(seed)
        images[split] = rng.integers(0, 256, (10 * num_each, 28, 28), dtype=np.uint8)
        labels = np.tile(np.arange(10, dtype=np.uint8), num_each)
        for array, num_axes in ((images[split], 3), (labels, 1)):
            name, content = FILES[split, num_axes], idx(array)
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                (folder / name).write_bytes(content)
    return images


def test_the_file_that_ships_is_small_and_its_licence_lies_beside_it() -> None:
    room = files("lab.experiments.distill.tasks")
    assert len(room.joinpath("garments_and_digits.npz").read_bytes()) < 5_000_000
    text = room.joinpath("garments_and_digits.LICENSE.txt").read_text()
    assert "Zalando" in text
    assert "scikit-learn" in text


def test_every_word_has_pictures_and_no_picture_is_in_both_splits() -> None:
    train, test = (load_pictures(split, garments=None, digits=None) for split in SPLITS)
    for split, pictures in zip(SPLITS, (train, test), strict=True):
        assert set(pictures.by_word) == {*GARMENTS.values(), *DIGITS}
        assert {len(pictures.by_word[word]) for word in GARMENTS.values()} == {NUM_GARMENTS[split]}
    assert sum(len(test.by_word[digit]) for digit in DIGITS) == NUM_TEST_DIGITS
    assert sum(len(train.by_word[digit]) for digit in DIGITS) == 1400
    contents = [{image.tobytes() for images in split.by_word.values() for image in images} for split in (train, test)]
    assert not contents[0] & contents[1]


@pytest.mark.parametrize("compress", [True, False])
def test_a_folder_of_idx_files_takes_the_place_of_what_ships(compress: bool, tmp_path: Path) -> None:
    images = write_idx_folder(tmp_path, compress=compress)
    both = load_pictures("test", garments=tmp_path, digits=tmp_path).by_word
    np.testing.assert_array_equal(both["boot"], images["test"][9::10])
    np.testing.assert_array_equal(both["seven"], images["test"][7::10])
    digits_only = load_pictures("train", garments=None, digits=tmp_path).by_word
    np.testing.assert_array_equal(digits_only["seven"], images["train"][7::10])
    assert len(digits_only["boot"]) == NUM_GARMENTS["train"]


def empty(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").unlink()


def cut_archive(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def cut_content(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def swap(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes((folder / "train-labels-idx1-ubyte.gz").read_bytes())


def cut_header(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03\0"))


def lose_labels(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(7, np.uint8))))


def lose_a_class(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(30, np.uint8))))


@pytest.mark.parametrize("damage", [empty, cut_archive, cut_content, cut_header, swap, lose_labels, lose_a_class])
def test_a_damaged_folder_is_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError) as caught:
        load_pictures("train", garments=tmp_path, digits=None)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="split='validation'"):
        load_pictures("validation", garments=None, digits=None)


def write_digits(path: Path, num_each: int) -> UInt8[ndarray, "..."]:
    rng = np.random.default_rng(3)
    labels = np.tile(np.arange(10), num_each)
    table = np.column_stack((rng.integers(0, 17, (10 * num_each, 64)), labels))
    text = "\n".join(",".join(map(str, row)) for row in table)
    path.write_bytes(gzip.compress(text.encode()))
    return table


def test_the_archive_is_rebuilt_from_its_sources(tmp_path: Path) -> None:
    images = write_idx_folder(tmp_path / "fashion")
    table = write_digits(tmp_path / "digits.csv.gz", 100)
    content = build_archive(tmp_path / "fashion", tmp_path / "digits.csv.gz", {"train": 2, "test": 1})
    assert build_archive(tmp_path / "fashion", tmp_path / "digits.csv.gz", {"train": 2, "test": 1}) == content
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        assert set(archive) == {f"{split}.{word}" for split in SPLITS for word in (*GARMENTS.values(), *DIGITS)}
        np.testing.assert_array_equal(archive["train.bag"], images["train"][[8, 18]])
        np.testing.assert_array_equal(archive["test.bag"], images["test"][[8]])
        for label, digit in enumerate(DIGITS):
            shown = np.concatenate([archive[f"{split}.{digit}"] for split in SPLITS])
            pixels = np.round(table[table[:, 64] == label][:, :64] * 255 / 16).reshape(-1, 8, 8)
            assert {image.tobytes() for image in shown} == {image.astype(np.uint8).tobytes() for image in pixels}
        assert sum(len(archive[f"test.{digit}"]) for digit in DIGITS) == NUM_TEST_DIGITS


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"1,2,3\n"), gzip.compress(b"a,b\n")],
    ids=["empty", "no gzip", "too few columns", "no numbers"],
)
def test_a_damaged_table_of_digits_is_refused(content: bytes, tmp_path: Path) -> None:
    write_idx_folder(tmp_path)
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"digits\.csv\.gz"):
        build_archive(tmp_path, path, {"train": 1, "test": 1})


@pytest.mark.slow
def test_the_pictures_that_ship_are_those_of_the_whole_data_set() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.exists():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    for split in SPLITS:
        images, labels = read_idx_folder(folder, split)
        shipped = load_pictures(split, garments=None, digits=None).by_word
        for label, word in GARMENTS.items():
            np.testing.assert_array_equal(shipped[word], images[labels == label][: NUM_GARMENTS[split]])
