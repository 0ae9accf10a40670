"""What files hold is told from a few bytes of them, wherever they lie."""

from pathlib import Path

import pytest

from lab.core.data import contents
from lab.core.data.contents import contents_in_options, contents_of, sampled_digest
from lab.core.data.conversations import SOURCE as CONVERSATIONS
from lab.core.data.conversations import ConversationsConfig
from lab.core.data.texts import SOURCE as TEXT
from lab.core.data.texts import TextConfig
from lab.core.errors import InputError

LINE = '{"conversations": [{"value": "Who?"}, {"value": "I."}]}\n'


def test_a_file_has_the_same_content_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, text in (("a", LINE), ("b", LINE), ("c", LINE * 2)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("chats.jsonl").write_text(text)
        options = ConversationsConfig(path=Path("chats.jsonl"))
        assert contents_in_options(options) == CONVERSATIONS.contents(options)
        found.append(CONVERSATIONS.contents(options)["chats.jsonl"])
        assert found[-1]["path"] == str(tmp_path / name / "chats.jsonl")
    assert found[0]["digest"] == found[1]["digest"] != found[2]["digest"]
    assert [each["bytes"] for each in found] == [len(LINE), len(LINE), 2 * len(LINE)]


def test_every_file_of_a_list_and_of_a_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(LINE)
    (tmp_path / "list.json").write_text('{"one": {"annotation": "one.jsonl"}}')
    named = CONVERSATIONS.contents(ConversationsConfig(path=tmp_path / "list.json"))
    assert named.keys() == {str(tmp_path / "list.json"), str(tmp_path / "one.jsonl")}
    assert TEXT.contents(TextConfig(folder=tmp_path)).keys() == {str(tmp_path / "one.jsonl")}
    with pytest.raises(InputError, match=r"gone\.txt"):
        contents_of([tmp_path / "gone.txt"])


def test_of_a_large_file_blocks_from_start_to_end_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_WHOLE", 64)
    monkeypatch.setattr(contents, "_BLOCK", 16)
    digests = set()
    for number, changed in enumerate((None, 0, 199, 70)):
        content = bytearray(200)
        if changed is not None:
            content[changed] = 1
        path = tmp_path / f"{number}.bin"
        path.write_bytes(content)
        digests.add(sampled_digest(path))
    assert len(digests) == 4


def test_very_many_files_are_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_NAMED", 2)
    for name in "abc":
        (tmp_path / name).write_text(name)
    files = sorted(tmp_path.iterdir())
    ((name, before),) = contents_of(files).items()
    assert (name, before["bytes"]) == (str(tmp_path), 3)
    files[1].write_text("d")
    assert contents_of(files)[name]["digest"] != before["digest"]
