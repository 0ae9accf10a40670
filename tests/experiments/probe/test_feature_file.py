"""Files of features are read as they are, whatever their kind; what holds no problem is refused in one line."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jaxtyping import Float64
from numpy import ndarray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from lab.core.errors import InputError
from lab.experiments.probe import feature_file, stored_arrays
from lab.experiments.probe.feature_file import FeatureFile, open_features

# Letters: N rows, d features, m outputs.

RNG = np.random.default_rng(0)
FEATURES, TARGETS = RNG.standard_normal((50, 6)), RNG.standard_normal((50, 3))
LABELS, GROUPS = np.arange(50) % 4 + 10, np.repeat(np.arange(25), 2)


def opened(path: Path, **others: Path) -> FeatureFile:
    return open_features(path, others.get("targets"), others.get("groups"))


def read(file: FeatureFile) -> tuple[Float64[ndarray, "N d"], Float64[ndarray, "N m"]]:
    blocks = list(file.blocks())
    assert [block.start for block in blocks] == list(np.cumsum([0, *(len(block.features) for block in blocks)])[:-1])
    return np.concatenate([block.features for block in blocks]), np.concatenate([block.targets for block in blocks])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (feature_file, stored_arrays):
        monkeypatch.setattr(module, "BLOCK", 8)


@pytest.mark.parametrize("kind", ["npz", "compressed", "columns", "safetensors", "lists", "table", "npy"])
def test_every_kind_of_file_gives_the_rows_that_were_saved(tmp_path: Path, kind: str) -> None:
    arrays: dict[str, Any] = {"features": FEATURES, "targets": TARGETS, "groups": GROUPS}
    path, others = tmp_path / "rows.npz", {}
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "compressed":
        np.savez_compressed(path, **arrays)
    elif kind == "columns":
        np.savez(path, **{**arrays, "features": np.asfortranarray(FEATURES)})
    elif kind == "safetensors":
        save_file(arrays, path := tmp_path / "rows.safetensors")
    elif kind == "npy":
        np.save(path := tmp_path / "rows.npy", FEATURES[:, ::-1][:, ::-1])
        for name in ("targets", "groups"):
            others[name] = tmp_path / f"{name}.npy"
            np.save(others[name], arrays[name])
    else:
        lists = {name: [list(row) for row in arrays[name]] for name in ("features", "targets")}
        columns = {f"x{i}": FEATURES[:, i] for i in range(6)} if kind == "table" else {"features": lists["features"]}
        table = pa.table({**columns, "targets": lists["targets"], "groups": GROUPS})
        pq.write_table(table, path := tmp_path / "rows.parquet", row_group_size=11)
    file = opened(path, **others)
    features, targets = read(file)
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(targets, TARGETS)
    assert file.contexts is not None
    np.testing.assert_array_equal(file.contexts, GROUPS)
    assert file.shape == (50, 6, 3)


def test_labels_are_classes(tmp_path: Path) -> None:
    np.savez(path := tmp_path / "rows.npz", features=FEATURES.astype(np.float16), labels=LABELS)
    file = opened(path)
    features, targets = read(file)
    assert file.is_class
    np.testing.assert_array_equal(targets, np.eye(4)[LABELS - 10])
    np.testing.assert_array_equal(features, FEATURES.astype(np.float16))


def test_bfloat16_of_torch_is_read(tmp_path: Path) -> None:
    tensors = {"features": torch.tensor(FEATURES).bfloat16(), "labels": torch.tensor(LABELS)}
    save_tensors(tensors, path := tmp_path / "rows.safetensors")
    np.testing.assert_array_equal(read(opened(path))[0], tensors["features"].double().numpy())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no features": ({"x": FEATURES, "labels": LABELS}, "call one of them features"),
    "no targets": ({"features": FEATURES}, "neither targets nor labels"),
    "both": ({"features": FEATURES, "targets": TARGETS, "labels": LABELS}, "both targets and labels"),
    "a vector": ({"features": FEATURES[:, 0], "labels": LABELS}, r"shape \(50,\), not rows and columns"),
    "too few targets": ({"features": FEATURES, "targets": TARGETS[:40]}, "targets have 40 rows, features 50"),
    "one class": ({"features": FEATURES, "labels": LABELS * 0}, "all labels are 0"),
    "labels with fractions": ({"features": FEATURES, "labels": LABELS / 3}, "give one whole number or word a row"),
    "targets that are not finite": (
        {"features": FEATURES, "targets": TARGETS + np.array([np.nan, 0, 0])},
        r"targets\[0, 0\]=nan",
    ),
    "complex": ({"features": FEATURES * 1j, "labels": LABELS}, "type complex128, not real numbers"),
    "objects": ({"features": np.array([{}] * 50), "labels": LABELS}, "type object, not real numbers"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=list(BAD))
def test_what_is_no_problem_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(path := tmp_path / "rows.npz", **arrays)
    with pytest.raises(InputError, match=message) as refused:
        opened(path)
    assert str(path) in str(refused.value)


def test_a_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    features = FEATURES.copy()
    features[33, 4] = np.inf
    np.savez(path := tmp_path / "rows.npz", features=features, labels=LABELS)
    with pytest.raises(InputError, match=r"features\[33, 4\]=inf must be finite"):
        read(opened(path))


@pytest.mark.parametrize(
    ("name", "content"), [("a.npz", b"x"), ("a.npy", b""), ("a.parquet", b"y"), ("a.safetensors", b"")]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        opened(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        opened(tmp_path / "other.npy")
    with pytest.raises(InputError, match=r"ends with none of \.npy"):
        opened(tmp_path / "a.csv")


@pytest.mark.parametrize("key", ["targets", "groups"])
def test_another_file_has_one_array_with_a_value_for_each_row(tmp_path: Path, key: str) -> None:
    files = {name: tmp_path / f"{name}.npy" for name in ("rows", "targets", "other")}
    np.save(files["rows"], FEATURES)
    np.save(files["targets"], TARGETS)
    for array, message in (
        (np.array(3.0), r"shape \(\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (TARGETS[:9], f"{key} have 9 rows, features 50"),
    ):
        np.save(files["other"], array)
        with pytest.raises(InputError, match=message):
            opened(files["rows"], **{"targets": files["targets"], key: files["other"]})
    np.savez(archive := tmp_path / "other.npz", features=TARGETS)
    with pytest.raises(InputError, match=f"{key}={archive} does not end with .npy"):
        opened(files["rows"], **{"targets": files["targets"], key: archive})


def test_words_in_a_file_of_targets_are_classes(tmp_path: Path) -> None:
    np.save(path := tmp_path / "rows.npy", FEATURES)
    np.save(words := tmp_path / "words.npy", np.array(["a", "b"] * 25))
    file = opened(path, targets=words)
    assert file.is_class
    np.testing.assert_array_equal(read(file)[1], np.eye(2)[[0, 1] * 25])


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_one_column_is_classes_whatever_its_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(path := tmp_path / "rows.npy", FEATURES)
    np.save(other := tmp_path / "labels.npy", LABELS.reshape(shape))
    np.testing.assert_array_equal(read(opened(path, targets=other))[1], np.eye(4)[LABELS - 10])


WORDS = np.array(["a", "bb"] * 25)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(WORDS),
        pa.array(WORDS, pa.large_string()),
        pa.array(WORDS).dictionary_encode(),
        pa.array(WORDS).cast(pa.string_view()),
    ],
    ids=["string", "large", "categories", "view"],
)
def test_words_in_a_table_are_classes_and_groups(tmp_path: Path, column: pa.Array) -> None:
    lists = pa.array(FEATURES.tolist(), pa.large_list(pa.float64()))
    pq.write_table(pa.table({"features": lists, "labels": column, "groups": column}), path := tmp_path / "a.parquet")
    file = opened(path)
    features, targets = read(file)
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(targets, np.eye(2)[[0, 1] * 25])
    assert file.contexts is not None
    np.testing.assert_array_equal(file.contexts, [0, 1] * 25)


@pytest.mark.parametrize("name", ["__index_level_0__", "id"])
def test_the_index_of_pandas_is_not_a_feature(tmp_path: Path, name: str) -> None:
    table = pa.table({**{f"x{i}": FEATURES[:, i] for i in range(6)}, name: np.arange(50), "labels": LABELS})
    known = {"index_columns": [name, {"kind": "range"}], "columns": [], "column_indexes": []}
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(known)}), path := tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(opened(path))[0], FEATURES)


def test_yes_or_no_and_decimal_columns_are_features_and_others_are_said_to_be_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    numbers = [Decimal(number) / 4 for number in range(50)]
    table = {"x": FEATURES[:, 0], "is_red": FEATURES[:, 1] > 0, "price": numbers, "name": ["a"] * 50, "labels": LABELS}
    pq.write_table(pa.table(table), path := tmp_path / "a.parquet")
    for _ in range(2):
        features, _ = read(opened(path))
        expected = np.stack([FEATURES[:, 0], FEATURES[:, 1] > 0, np.arange(50) / 4], axis=1)
        np.testing.assert_array_equal(features, expected)
    assert (
        capfd.readouterr().err.count(
            "a.parquet: columns that are left out, since they are no numbers or an index: name"
        )
        == 1
    )


def test_a_table_may_have_one_feature(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": FEATURES[:, 0], "labels": LABELS}), path := tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(opened(path))[0], FEATURES[:, :1])


def words(path: Path) -> None:
    np.savez(path, features=np.array([["a"] * 6] * 50), labels=LABELS)


def table_of_words(path: Path) -> None:
    pq.write_table(pa.table({"features": [["a", "b"]] * 50, "labels": LABELS}), path)


def table_in_table(path: Path) -> None:
    pq.write_table(pa.table({"features": [[[1.0], [2.0]]] * 50, "labels": LABELS}), path)


def table_of_unequal_blocks(path: Path) -> None:
    lists = [list(row[: 6 if number < 24 else 5]) for number, row in enumerate(FEATURES)]
    pq.write_table(pa.table({"features": lists, "labels": LABELS}), path)


def table_with_a_name_twice(path: Path) -> None:
    columns = [pa.array(FEATURES[:, 0]), pa.array(FEATURES[:, 1]), pa.array(LABELS)]
    pq.write_table(pa.Table.from_arrays(columns, names=["x", "x", "labels"]), path)


def complex_numbers(path: Path) -> None:
    save_tensors({"features": torch.tensor(FEATURES).to(torch.complex64), "labels": torch.tensor(LABELS)}, path)


def columns_that_are_cut_off(path: Path) -> None:
    np.save(path, np.asfortranarray(FEATURES))
    path.write_bytes(path.read_bytes()[:-9])
    np.save(path.with_name("labels.npy"), LABELS)


def a_bit_that_is_flipped(path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((50, 4000))
    np.savez_compressed(path, features=features, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (words, "a.npz", "features have type <U1, not real numbers"),
        (table_of_words, "a.parquet", "features have type .*, not real numbers"),
        (table_in_table, "a.parquet", "features have type object, not real numbers"),
        (table_of_unequal_blocks, "a.parquet", "different lengths"),
        (table_with_a_name_twice, "a.parquet", "several columns x"),
        (complex_numbers, "a.safetensors", "type complex64, not real numbers"),
        (columns_that_are_cut_off, "a.npy", "cannot be read"),
        (a_bit_that_is_flipped, "a.npz", "cannot be read"),
    ],
)
def test_what_is_found_while_reading_is_one_line(
    tmp_path: Path, make: Callable[[Path], None], name: str, message: str
) -> None:
    make(path := tmp_path / name)
    others = {} if path.suffix != ".npy" else {"targets": tmp_path / "labels.npy"}
    with pytest.raises(InputError, match=message) as refused:
        read(opened(path, **others))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("array", [TARGETS[:9], np.full((50, 1), np.nan), TARGETS.reshape(50, 3, 1), TARGETS[:, :0]])
def test_the_file_at_fault_is_named(tmp_path: Path, array: Any) -> None:
    np.save(path := tmp_path / "rows.npy", FEATURES)
    np.save(other := tmp_path / "other.npy", array)
    with pytest.raises(InputError, match=r"other\.npy"):
        opened(path, targets=other)
