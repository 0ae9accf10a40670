"""What is wrong with a JSON file is said in one line that names the file and what to do."""

from pathlib import Path

import pytest

from lab.core.errors import CheckpointError, LabError, RunError
from lab.core.runs.json_files import json_object_or_none, read_json, read_json_object

NO_OBJECT = {b"[1, 2]": "is not a JSON object", b"null": "is not a JSON object", b'"text"': "is not a JSON object"}
NO_JSON = {
    b"": r"is not valid JSON \(line 1: Expecting value\)",
    b'{"a": 1,\n "b": }': r"is not valid JSON \(line 2: Expecting value\)",
    b"\xff\x00": r"is not valid JSON \('utf-8' codec can't decode byte 0xff",
    b"[" * 100_000: r"is not valid JSON \(",
    b"1" * 10_000: r"is not valid JSON \(",
}


def test_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text('{"title": "λ", "nested": {"values": [1, 0.5, null]}}', encoding="utf-8")
    content = {"title": "λ", "nested": {"values": [1, 0.5, None]}}
    assert read_json_object(path, hint="start again") == json_object_or_none(path) == content


def test_other_content_is_read_where_any_will_do(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    path.write_text('["seed=1"]')
    assert read_json(path, hint="start again") == ["seed=1"]


def refused(path: Path, says: str, error: type[LabError] = RunError) -> None:
    with pytest.raises(LabError, match=says) as refusal:
        read_json_object(path, hint="copy it again", error=error)
    message = str(refusal.value)
    assert type(refusal.value) is error
    assert message.startswith(f"{path} ")
    assert message.endswith("; copy it again")
    assert "\n" not in message
    assert json_object_or_none(path) is None


@pytest.mark.parametrize("content", [*NO_OBJECT, *NO_JSON], ids=lambda content: repr(content[:9]))
def test_a_file_without_an_object_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    refused(path, (NO_OBJECT | NO_JSON)[content])
    refused(path, (NO_OBJECT | NO_JSON)[content], CheckpointError)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone.json", r"cannot be read \(No such file or directory\)")
    with pytest.raises(RunError, match="cannot be read: it is a folder; give a file"):
        read_json_object(tmp_path, hint="copy it again")
