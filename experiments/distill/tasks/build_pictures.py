"""Build garments_and_digits.npz from the Debian package and scikit-learn's digits.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb fashion
    pip download --no-deps scikit-learn && unzip scikit_learn-*.whl 'sklearn/datasets/data/digits.csv.gz'
    python -m lab.experiments.distill.tasks.build_pictures fashion/usr/share/datasets/fashion-mnist \
        sklearn/datasets/data/digits.csv.gz experiments/distill/tasks/garments_and_digits.npz

The same input gives a bit-identical file with the same version of zlib.
"""

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from lab.core.data.stream import SPLITS
from lab.core.errors import InputError
from lab.core.runs.atomic_files import write_atomically
from lab.experiments.distill.tasks.pictures import DIGITS, GARMENTS, read_idx_folder, select

# Letters: N pictures, S side in pixels.

# pictures of each garment: as many as fit in 5 MB
NUM_GARMENTS = {"train": 1500, "test": 250}
NUM_TEST_DIGITS = 397
SPLIT_SEED = 1234


def build_archive(fashion_mnist: Path, digits_csv: Path, num_garments: dict[str, int]) -> bytes:
    """The archive: one array of pictures for each split and word.

    Args:
        fashion_mnist: folder with the IDX files.
        digits_csv: gzipped lines of 64 pixels from 0 to 16 and a label.
        num_garments: for each split, how many pictures of each garment: the first ones.

    Raises:
        InputError: if a file is missing or damaged.
    """
    arrays: dict[str, UInt8[ndarray, "N S S"]] = {}
    digits = _read_digits(digits_csv)
    for split in SPLITS:
        garments = select(*read_idx_folder(fashion_mnist, split), GARMENTS)
        arrays |= {f"{split}.{word}": pictures[: num_garments[split]] for word, pictures in garments.items()}
        arrays |= {f"{split}.{word}": pictures for word, pictures in digits[split].items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            # a fixed date: np.savez would store the current time
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _read_digits(path: Path) -> dict[str, dict[str, UInt8[ndarray, "N 8 8"]]]:
    try:
        with gzip.open(path, "rt") as file:
            table = np.array([line.split(",") for line in file], dtype=np.int64)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not a table of digits ({error}); take digits.csv.gz from scikit-learn") from None
    if table.shape[1:] != (65,) or table.min() < 0 or table[:, :64].max() > 16:
        raise InputError(
            f"{path} must hold 64 pixels from 0 to 16 and a label per line; take scikit-learn's digits.csv.gz"
        )
    # 16 levels and 0 -> 0 ... 255
    images = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(table))
    num_train = len(table) - NUM_TEST_DIGITS
    parts = {"train": np.sort(order[:num_train]), "test": np.sort(order[num_train:])}
    return {split: select(images[part], table[part, 64], dict(enumerate(DIGITS))) for split, part in parts.items()}


if __name__ == "__main__":
    write_atomically(Path(sys.argv[3]), build_archive(Path(sys.argv[1]), Path(sys.argv[2]), NUM_GARMENTS))
