"""Folders of data: every file is read, refused by name, or said not to be read."""

import gzip
import json
import os
from pathlib import Path

import pytest

from lab.core.data.conversation_files.kinds import files_in
from lab.core.data.documents import documents_in, files_of, kind_of
from lab.core.errors import InputError

LINE = json.dumps({"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}) + "\n"
TEXT = json.dumps({"text": "hello"}) + "\n"


def write(path: Path, content: str = LINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_links_suffixes_in_capitals_and_folders_named_as_files_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    for name in ("a.jsonl", "D.JSONL", "train.jsonl/part-0.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", ".b.jsonl"):
        write(folder / name)
    write(tmp_path / "elsewhere" / "e.jsonl")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder / "train.jsonl")
    (tmp_path / "elsewhere" / "circle").symlink_to(folder)
    write(folder / "dataset_info.json", '{"description": {}}')
    for name in ("notes.csv", "a.png", "b.jpg"):
        write(folder / name)
    names = [str(path.relative_to(folder)) for path in files_in(folder)]
    assert names == ["D.JSONL", "a.jsonl", "link/e.jsonl", "train.jsonl/part-0.jsonl"]
    files_in(folder)
    assert capsys.readouterr().err == f"lab: {folder}: 4 files are read, 2 others are not (.csv 1, .json 1)\n"


@pytest.mark.parametrize("content", [f"[{LINE}]", LINE, LINE * 2, '{"a": {"annotation": "a.jsonl"}}', "no JSON"])
def test_json_that_may_be_data_is_not_passed_over(content: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    write(tmp_path / "b.json", content)
    with pytest.raises(InputError, match=r"files \*\.jsonl and \*\.json; give one file"):
        files_in(tmp_path)


@pytest.mark.parametrize("name", ["b.jsonl.gz", "b.tgz", "B.TXT.ZST", "c4.json.gz"])
def test_compressed_files_are_refused_by_name_unless_they_were_unpacked(name: str, tmp_path: Path) -> None:
    read = files_of if "TXT" in name else files_in
    write(tmp_path / ("a.txt" if "TXT" in name else "a.jsonl"))
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} is compressed, and would not be read; unpack it"):
        read(tmp_path)
    if name != "b.tgz" and name != "c4.json.gz":
        write((tmp_path / name).with_suffix(""))
        assert len(read(tmp_path)) == 2


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt", "a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"b\.txt cannot be read \(No such file"):
        list(documents_in(tmp_path))
    (tmp_path / "b.txt").unlink()
    (tmp_path / "sub").mkdir()
    scan = os.scandir

    def forbidden(path: str) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    for read in (files_of, files_in):
        with pytest.raises(InputError, match=r"sub cannot be read \(Permission denied\); make it readable"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["c4.json", "c4.JSONL", "c4", "c4.txt"])
def test_lines_with_texts_are_read_as_such_whatever_their_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "\ufeff" + TEXT * 2)
    assert list(documents_in(path)) == ["hello", "hello"]
    if name != "c4":
        assert list(documents_in(tmp_path)) == ["hello", "hello"]


@pytest.mark.parametrize(("name", "content"), [("a.csv", "text\n"), ("a.json", '{"body": "a"}\n'), ("a.html", "<p>")])
def test_files_of_another_kind_are_no_text(name: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no kind of text that is known by its ending .*; rename it to \*\.txt"):
        list(documents_in(write(tmp_path / name, content)))


def test_a_compressed_text_is_said_to_be_one(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(InputError, match=r"a\.txt is compressed \(gzip\); unpack it"):
        kind_of(path)
