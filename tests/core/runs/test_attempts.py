"""A run goes on with the same last digits, or says what differs."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import RunError
from lab.core.runs.attempts import differences
from lab.core.runs.record import Run

BEFORE: dict[str, Any] = {
    "commit": "a" * 40,
    "host": "one",
    "processor": "EPYC",
    "instructions": "x86_64 avx2",
    "compiler": "g++ 12",
    "versions": {"numpy": "2.4", "torch": "2.13", "matplotlib": "3.9"},
    "computed_by": ["numpy", "torch"],
    "settings": {"device": "cpu", "threads": "2"},
    "backends": {"ssd": "chunked"},
    "products": {"float32": "torch everywhere"},
    "data": {"chats.jsonl": {"path": "/data/chats.jsonl", "bytes": 1200, "digest": "ab" * 32}},
}


def changed(key: str, value: object) -> dict[str, Any]:
    name, _, entry = key.partition(".")
    return {**BEFORE, name: {**BEFORE[name], entry: value} if entry else value}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("processor", "Xeon", "processor is Xeon, was EPYC"),
        ("instructions", "x86_64 avx512f", "instructions is x86_64 avx512f, was x86_64 avx2"),
        ("compiler", None, r"compiler is not used, was g\+\+ 12"),
        ("versions.torch", "2.12", "torch is 2.12, was 2.13"),
        ("settings.threads", "1", "threads is 1, was 2"),
        ("settings.OPENBLAS_CORETYPE", "Haswell", "OPENBLAS_CORETYPE is Haswell, was not used"),
        ("backends.ssd", "chunked, in torch", "ssd is chunked, in torch, was chunked"),
        (
            "data",
            {"chats.jsonl": {"path": "/data/chats.jsonl", "bytes": 1300, "digest": "cd" * 32}},
            r"chats\.jsonl is 1,300 bytes \(SHA-256 cdcdcdcdcdcd…\), was 1,200 bytes \(SHA-256 abababababab…\)",
        ),
        ("data", {}, r"chats\.jsonl is not used, was 1,200 bytes \(SHA-256 abababababab…\)"),
        ("products.float32", "onednn", "products of float32 is onednn, was torch everywhere"),
    ],
)
def test_what_changes_the_last_digits_is_refused_unless_told_otherwise(
    key: str, value: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run(tmp_path, {"seed": 0}, [], BEFORE, b"") as run:
        run.log([{"cell": 0}])
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=rf"other last digits: {said}; .* or with resume_on=different"):
        Run(tmp_path, {"seed": 0, "resume_on": "same"}, [], changed(key, value), b"")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    with Run(tmp_path, {"seed": 0, "resume_on": "different"}, [], changed(key, value), b""):
        pass
    assert "goes on with other last digits (resume_on=different)" in capsys.readouterr().err
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["resume_on"] == "different"
    assert provenance["earlier"] == [{**BEFORE, "patch": None}]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", "two"),
        ("versions.matplotlib", "3.10"),
        ("threads", {}),
        ("data", {"chats.jsonl": {"path": "/elsewhere/chats.jsonl", "bytes": 1200, "digest": "ab" * 32}}),
    ],
)
def test_what_changes_no_number_is_not_said(key: str, value: object) -> None:
    assert differences(BEFORE, changed(key, value)) == []


def test_other_source_code_is_said_and_its_changes_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for commit, patch in (("a" * 40, b"one"), ("a" * 40, b"one"), ("b" * 40, b"two"), ("c" * 40, b"")):
        with Run(tmp_path, {"seed": 0}, [], {**BEFORE, "commit": commit}, patch) as run:
            run.log([{"cell": 0}])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "lab: going on with other source code: commit bbbbbbbb, before: commit aaaaaaaa"
    assert len(said) == 2
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    patches = [attempt["patch"] for attempt in [*provenance["earlier"], provenance]]
    assert patches == ["source.patch", "source.patch", "source-2.patch", None]
    assert [(tmp_path / name).read_text() for name in patches[1:3]] == ["one", "two"]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_provenance_that_is_lost_is_no_reason_to_believe(content: str | None, tmp_path: Path) -> None:
    with Run(tmp_path, {}, [], BEFORE, b"") as run:
        run.log([{"cell": 0}])
    path = tmp_path / "provenance.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(RunError, match=r"provenance\.json is missing or damaged.*resume_on=different"):
        Run(tmp_path, {}, [], BEFORE, b"")
    with Run(tmp_path, {"resume_on": "different"}, [], BEFORE, b""):
        pass


def test_source_code_whose_changes_are_not_known_is_not_said_to_be_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_dirty in (False, None):
        with Run(tmp_path, {"seed": 0}, [], {**BEFORE, "commit": "a" * 40, "is_dirty": is_dirty}, b"") as run:
            run.log([{"cell": 0}])
    assert "commit aaaaaaaa, with changes that are not known, before: commit aaaaaaaa\n" in capsys.readouterr().err
