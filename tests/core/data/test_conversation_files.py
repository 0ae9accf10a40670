"""The same conversations in every format are the same samples; indices agree with parsers that read the whole file."""

import io
import json
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lab.core.data.bad_samples import BadSample, Reason
from lab.core.data.conversation_files import json_list
from lab.core.data.conversation_files.json_list import JsonList
from lab.core.data.conversation_files.jsonl import JsonLines
from lab.core.data.conversation_files.record import said
from lab.core.data.conversations import Conversations, ConversationsConfig
from lab.core.data.prompt_format import PromptFormat
from lab.core.errors import InputError
from reference.characters import Characters

FORMAT = PromptFormat(image_size=8, patch_size=4, max_tiles=4)
Records = Sequence[dict[str, Any]]


def records(folder: Path, count: int = 30) -> list[dict[str, Any]]:
    """Questions about pictures, each of another colour; every fifth without one."""
    found = []
    for number in range(count):
        record: dict[str, Any] = {
            "conversations": [{"from": "human", "value": f"ü {number}?"}, {"from": "gpt", "value": "é"}]
        }
        if number % 5:
            Image.new("RGB", (16, 8), (number, 2 * number, 255)).save(folder / f"{number}.png")
            record["image"] = f"{number}.png"
        found.append(record)
    return found


def write_jsonl(path: Path, content: Records) -> None:
    path.write_text("\n\n".join(json.dumps(record, ensure_ascii=False) for record in content))


def write_list(path: Path, content: Records) -> None:
    path.write_text(json.dumps(content, indent=1))


def write_parquet(path: Path, content: Records) -> None:
    rows = [
        {
            "image": record.get("image")
            and {"bytes": (path.parent / record["image"]).read_bytes(), "path": record["image"]},
            "conversations": record["conversations"],
            "id": number,
        }
        for number, record in enumerate(content)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)


def write_tar(path: Path, content: Records) -> None:
    with tarfile.open(path, "w") as archive:
        for number, record in enumerate(content):
            members = [("json", json.dumps({"conversations": record["conversations"]}).encode())]
            if "image" in record:
                members.insert(number % 2, ("png", (path.parent / record["image"]).read_bytes()))
            for ending, data in members:
                member = tarfile.TarInfo(f"train/{number:05}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


FORMATS: dict[str, Callable[[Path, Records], None]] = {
    "chats.jsonl": write_jsonl,
    "chats.json": write_list,
    "chats.parquet": write_parquet,
    "chats.tar": write_tar,
}


def opened(path: Path, *, split: str = "train", share: float = 0.0, folder: Path | None = None) -> Conversations:
    config = ConversationsConfig(path=path, image_folder=folder, held_out_share=share)
    return Conversations(config, split=split, tokenizer=Characters(), prompt_format=FORMAT)


def contents(source: Conversations) -> list[tuple[bytes, bytes]]:
    samples = [source[index] for index in range(len(source))]
    return [(sample.tiles.tobytes(), sample.conversation.llm_ids.tobytes()) for sample in samples]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_samples_in_their_order(name: str, tmp_path: Path) -> None:
    content = records(tmp_path)
    write_jsonl(tmp_path / "expected", content)
    # seen from the content, not the name
    FORMATS[name](tmp_path / "other", content)
    source = opened(tmp_path / "other")
    assert contents(source) == contents(opened(tmp_path / "expected"))
    assert contents(pickle.loads(pickle.dumps(source))) == contents(source)
    numbers = [source.place(index).number for index in range(len(source))]
    assert numbers == list(range(1, 60, 2) if name == "chats.jsonl" else range(1, 31))


@pytest.mark.parametrize("name", FORMATS)
def test_the_splits_part_every_format(name: str, tmp_path: Path) -> None:
    content = records(tmp_path)
    FORMATS[name](tmp_path / name, content)
    whole = Counter(contents(opened(tmp_path / name)))
    parts = [Counter(contents(opened(tmp_path / name, split=split, share=0.3))) for split in ("train", "test")]
    assert sum(parts, Counter()) == whole
    assert 2 <= sum(parts[1].values()) <= 18


def test_a_folder_of_shards_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    content = records(tmp_path)
    write_jsonl(tmp_path / "all.jsonl", content)
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "dataset_info.json").write_text("{}")
    for number in range(3):
        write_tar(tmp_path / "x.tar", content[10 * number : 10 * number + 10])
        (tmp_path / "x.tar").rename(shards / f"{number}.tar")
    assert contents(opened(shards)) == contents(opened(tmp_path / "all.jsonl"))
    (shards / "a.parquet").touch()
    with pytest.raises(InputError, match=r"\*\.parquet and \*\.tar; give one file"):
        opened(shards)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", "[{", '\\"', "é\n"]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25)
@given(
    items=st.lists(JSON, max_size=5),
    block=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    is_ascii=st.booleans(),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_a_list_is_cut_where_a_parser_of_the_whole_cuts_it(
    items: list[Any],
    block: int,
    indent: int | None,
    is_ascii: bool,
    bom: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_bytes(bom + b" " + json.dumps(items, indent=indent, ensure_ascii=is_ascii).encode() + b"\n")
    with pytest.MonkeyPatch.context() as patched:
        # the mark and the bracket are in the first block
        patched.setattr(json_list, "_BLOCK", block + 5)
        found = JsonList(path, lambda key: False)
    assert len(found) == len(items)
    for index, item in enumerate(items):
        if isinstance(item, dict):
            assert found.read(index) == item
        else:
            with pytest.raises(BadSample, match="not a JSON object"):
                found.read(index)


@pytest.mark.parametrize("content", ['[{"a": 1}', '[{"a": 1}}]', '[{"a": "b}]', '[{"a": 1}] []', "[" * 10_000])
def test_a_list_that_does_not_end_where_the_file_does_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_text(content)
    with pytest.raises(InputError, match=r"chats\.json is a JSON list"):
        opened(tmp_path / "chats.json")


def test_a_wrong_item_is_one_bad_sample(tmp_path: Path) -> None:
    good = json.dumps(records(tmp_path, 1)[0])
    (tmp_path / "chats.json").write_text(f"[{good}, {{'a'}}, {good}]")
    source = opened(tmp_path / "chats.json")
    assert len(source) == 3
    with pytest.raises(BadSample, match=r"chats\.json, item 2: is not valid JSON") as raised:
        source[1]
    assert raised.value.reason is Reason.wrong_json
    assert source[0].conversation.llm_ids.tolist() == source[2].conversation.llm_ids.tolist()


@settings(max_examples=15)
@given(lines=st.lists(st.sampled_from([b"", b"  ", b"{}", b"[]", b"x" * 30, b"{}\r"]), max_size=600))
def test_lines_have_their_numbers(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = JsonLines(path, lambda key: False)
    assert [found.number(index) for index in range(len(found))] == [
        number for number, line in enumerate(lines, start=1) if line.strip()
    ]


def test_a_list_of_data_sets_says_roots_shares_and_repetitions(tmp_path: Path) -> None:
    content = records(tmp_path, 20)
    for name, part in (("a", content[:10]), ("b", content[10:])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / f"{name}.jsonl", part)
        for record in part:
            if "image" in record:
                (tmp_path / record["image"]).rename(tmp_path / name / record["image"])

    def counts(a: dict[str, Any], b: dict[str, Any]) -> list[int]:
        meta = {
            name: {"root": name, "annotation": f"{name}.jsonl", "length": 10, **more}
            for name, more in (("a", a), ("b", b))
        }
        (tmp_path / "meta.json").write_text(json.dumps(meta, indent=2))
        source = opened(tmp_path / "meta.json")
        files = Counter(Path(source.place(index).file).stem for index in range(len(source)))
        assert len(contents(source)) == sum(files.values())
        return [files["a"], files["b"]]

    assert counts({}, {}) == [10, 10]
    assert counts({"repeat_time": 3}, {"repeat_time": 0.5, "data_augment": False}) == [30, 5]
    assert counts({"repeat_time": 1.5}, {}) == [15, 10]
    assert counts({"weight": 3}, {"weight": 1}) == [15, 5]
    (tmp_path / "meta.json").write_text(
        json.dumps({"a": {"root": "a", "annotation": "a.jsonl", "max_dynamic_patch": 1}})
    )
    assert {len(opened(tmp_path / "meta.json")[index].tiles) for index in range(10)} == {0, 1}


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"annotation": "a.jsonl", "data_augment": True}, "a has data_augment=true"),
        ({"annotation": "a.jsonl", "repeat_time": -1}, "repeat_time=-1 must be a number above 0"),
        ({"annotation": "a.jsonl", "weight": "x"}, "weight='x' must be"),
        ({"annotation": "a.jsonl", "max_dynamic_patch": 0}, "max_dynamic_patch=0"),
        ({"annotation": "a.jsonl", "sampling": "x"}, "has the key sampling, which is not implemented"),
        ({"annotation": "gone.jsonl"}, r"gone\.jsonl cannot be read"),
        ({"annotation": "a.jsonl", "repeat_time": 0.3}, r"a: repeat_time=0\.3 reads none of its 2 samples"),
        ({"annotation": "empty.jsonl"}, "a holds no sample"),
        ({"annotation": "a.jsonl", "data_augment": "False"}, "data_augment='False' must be true or false"),
    ],
)
def test_a_wrong_entry_of_a_list_of_data_sets_is_named(entry: dict[str, Any], match: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", records(tmp_path, 2))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "meta.json").write_text(json.dumps({"a": entry}))
    with pytest.raises(InputError, match=match):
        opened(tmp_path / "meta.json")


@pytest.mark.parametrize(
    "record",
    [
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "a?"},
                {"role": "assistant", "content": "b"},
            ]
        },
        {
            "conversations": [
                {"from": "system", "value": "Be short."},
                {"from": "human", "value": "a?"},
                {"from": "gpt", "value": "b"},
            ]
        },
        {
            "messages": json.dumps(
                [
                    {"role": "system", "content": "Be short."},
                    {"role": "user", "content": [{"type": "text", "text": "a?"}]},
                    {"role": "assistant", "content": "b"},
                ]
            )
        },
    ],
)
def test_roles_of_both_conventions_are_read(record: dict[str, Any]) -> None:
    found = said(record)
    assert (found.turns, found.system, found.pictures) == (["a?", "b"], "Be short.", [])


def test_pictures_inside_of_messages_have_their_marks() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "Same?"},
    ]
    found = said({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "no"}]})
    assert found.turns == ["<image>\n<image>\nSame?", "no"]
    assert found.pictures == [bytes([0, 1, 2]), "a.png"]
    assert said({"texts": [{"user": "a?", "assistant": "b"}], "images": [{"bytes": b"x", "path": None}]}).pictures == [
        b"x"
    ]


@pytest.mark.parametrize(
    "roles", [("assistant", "user"), ("user", "user"), ("user", "system"), ("user",), ("tool", "user")]
)
def test_roles_that_do_not_take_turns_are_refused(roles: tuple[str, ...]) -> None:
    with pytest.raises(BadSample) as raised:
        said({"messages": [{"role": role, "content": "a"} for role in roles]})
    assert raised.value.reason is Reason.wrong_conversation


@pytest.mark.parametrize("name", ["chats.parquet", "chats.tar"])
def test_an_archive_that_is_cut_off_or_compressed_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path, records(tmp_path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 - 100])
    with pytest.raises(InputError, match=name):
        opened(path)
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(InputError, match=r"is compressed \(gzip\); unpack it"):
        opened(path)


def test_a_table_without_conversations_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "chats.parquet")
    with pytest.raises(InputError, match="has the columns question, answer, none of which"):
        opened(tmp_path / "chats.parquet")


def test_a_sample_of_an_archive_without_a_record_is_bad(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", records(tmp_path, 6))
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.add(tmp_path / "1.png", "train/lonely.png")
    source = opened(tmp_path / "a.tar")
    with pytest.raises(BadSample, match=r"sample 7: it has no member with the ending \.json"):
        source[6]
    assert len(source[1].tiles) == 3
