"""What editors and exports leave in files of conversations is read as it is meant, or refused in a line."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from lab.core.data.bad_samples import BadSample
from lab.core.data.conversation_files.kinds import open_file
from lab.core.data.conversation_files.record import key_of_json, parse, said
from lab.core.data.documents import documents_in
from lab.core.errors import InputError

TURNS = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("lines", [True, False])
def test_two_bytes_a_character_are_refused(tmp_path: Path, encoding: str, lines: bool) -> None:
    records = [{"conversations": TURNS}] * 3
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    (path := tmp_path / "a.json").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=r"a\.json is text in UTF-16 or UTF-32; save it as UTF-8"):
        open_file(path, 0.0)


def test_a_line_in_another_encoding_is_said_to_be_one() -> None:
    with pytest.raises(BadSample, match="is not UTF-8 text"):
        parse('{"conversations": "é"}'.encode("latin-1"))


@pytest.mark.parametrize("empty", [None, "", []])
@pytest.mark.parametrize("key", ["image", "images"])
def test_an_empty_key_does_not_hide_the_pictures_of_the_other(key: str, empty: Any) -> None:
    other = {"image": "images", "images": "image"}[key]
    record = {"conversations": TURNS, key: empty, other: ["a.png"]}
    assert said(record).pictures == ["a.png"]
    assert key_of_json(json.dumps(record).encode()) == b"a.png"


def test_different_pictures_under_both_keys_are_refused() -> None:
    record = {"conversations": TURNS, "image": "a.png", "images": ["a.png"]}
    assert said(record).pictures == ["a.png"]
    with pytest.raises(BadSample, match="different pictures under image and images"):
        said({**record, "images": ["b.png"]})


@pytest.mark.parametrize("empty", [None, []])
def test_an_empty_key_does_not_hide_a_conversation(empty: Any) -> None:
    assert said({"messages": empty, "texts": empty, "conversations": TURNS}).turns == ["a?", "b"]


def test_the_mark_of_the_byte_order_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"one\r\ntwo")
    assert list(documents_in(tmp_path)) == ["one\ntwo"]


@pytest.mark.parametrize("key", ["image", "images"])
@pytest.mark.parametrize("empty", [{"bytes": None, "path": None}, [None], [{"bytes": None, "path": ""}], [""]])
def test_nulls_in_the_place_of_a_picture_are_none(key: str, empty: Any) -> None:
    assert said({"conversations": TURNS, key: empty}).pictures == []
    other = {"image": "images", "images": "image"}[key]
    assert said({"conversations": TURNS, key: empty, other: [None, "a.png"]}).pictures == ["a.png"]


def test_a_mark_without_a_picture_of_its_own_has_the_next_of_the_record() -> None:
    def asked(*parts: dict[str, Any] | str) -> list[dict[str, Any]]:
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
        return [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]

    own = {"type": "image", "image": "own.png"}
    null = {"type": "image_url", "image_url": {"url": None}}
    mark = {"type": "image", "image": {"bytes": None, "path": None}}
    messages = [*asked(own, "first"), *asked({"type": "image"}, "<image>second", own), *asked(mark, null)]
    given = [f"{number}.png" for number in range(4)]
    assert said({"images": given, "messages": messages}).pictures == ["own.png", *given[:2], "own.png", *given[2:]]
    # more than there are marks: what writes the prompt counts them
    assert said({"images": given, "messages": asked(own, "<image>")}).pictures == ["own.png", *given]


def test_lists_of_messages_on_lines_are_said_to_be_such(tmp_path: Path) -> None:
    messages = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    (path := tmp_path / "a.jsonl").write_text(f"{messages}\n{messages}\n")
    with pytest.raises(InputError, match=r'a\.jsonl has a list on each line; make each an object: \{"messages": '):
        open_file(path, 0.0)
    (other := tmp_path / "b.jsonl").write_text(f"{messages}\n")
    with pytest.raises(BadSample, match=r'is a message, not a conversation; write .* \{"messages": '):
        said(open_file(other, 0.0).read(0))
    with pytest.raises(BadSample, match="is not a JSON object but a list"):
        parse(messages.encode())
