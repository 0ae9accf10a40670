"""Files of conversations, of documents and of data sets that must be refused, by `lab data check` and by a training."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from faults.bad_inputs import Case

from lab.experiments.distill.teacher import SHIPPED_FOLDER

TURNS = [{"from": "human", "value": "What is even?"}, {"from": "gpt", "value": "even"}]
RECORD: Mapping[str, Any] = {"conversations": TURNS}
_NUMBER = 20

# in the place of conversations, images, or a whole record
RECORDS: dict[str, Any] = {
    "conversations is a number": {"conversations": 3},
    "conversations is an object": {"conversations": {"from": "human"}},
    "turns are numbers": {"conversations": [1, 2]},
    "values are lists": {"conversations": [{"from": "human", "value": []}, {"from": "gpt", "value": {}}]},
    "half of a character": {"conversations": [{"value": "\ud800"}, {"value": "even"}]},
    "a question without an answer": {"conversations": TURNS[:1]},
    "a system message alone": {"conversations": [{"from": "system", "value": "even"}]},
    "image tokens": {"conversations": [{"value": "<IMG_CONTEXT>"}, {"value": "even"}]},
    "a mark in an answer": {"conversations": [{"value": "even?"}, {"value": "<image>"}]},
    "marks without pictures": {"conversations": [{"value": "<image><image>"}, {"value": "even"}]},
    "unknown words": {"conversations": [{"value": "ünï"}, {"value": "even"}]},
    "roles do not take turns": {"messages": [{"role": "user", "content": "even?"}] * 2},
    "an unknown role": {"messages": [{"role": "tool", "content": "even?"}, {"role": "assistant", "content": "even"}]},
    "content is a number": {"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "even"}]},
    "an unknown part": {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
    "parts are numbers": {"messages": [{"role": "user", "content": [1]}]},
    "no Base64": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}]},
            {"role": "assistant", "content": "even"},
        ]
    },
    "no picture": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "content": "even"},
        ]
    },
    "texts is a text": {"texts": "even"},
    "texts without answers": {"texts": [{"user": "even?"}]},
    "image is a number": {**RECORD, "image": 3},
    "images are numbers": {**RECORD, "images": [1, 2]},
    "image is NUL": {**RECORD, "image": "\0"},
    "image is half of a character": {**RECORD, "image": "\ud800.png"},
    "image has a long name": {**RECORD, "image": "a" * 5000},
    "image is a folder": {**RECORD, "image": "."},
    "image is a device": {**RECORD, "image": "/dev/zero"},
    "image is bytes": {**RECORD, "image": {"bytes": "x", "path": 3}},
}

# lists of data sets
METAS: dict[str, Any] = {
    "annotation is missing": {"a": {"annotation": "gone.jsonl"}},
    "annotation is a number": {"a": {"annotation": 3}, "b": {"annotation": "x"}},
    "annotation is empty": {"a": {"annotation": ""}},
    "annotation is a device": {"a": {"annotation": "/dev/zero"}},
    "annotation is NUL": {"a": {"annotation": "\0"}},
    "annotation has a long name": {"a": {"annotation": "a" * 5000}},
    "annotation is the list": {"a": {"annotation": "meta.json"}},
    "annotation is half of a character": {"a": {"annotation": "\ud800"}},
    "an entry is a number": {"a": {"annotation": "whole.jsonl"}, "b": 3},
    "root is a number": {"a": {"annotation": "whole.jsonl", "root": 3}},
    "an unknown key": {"a": {"annotation": "whole.jsonl", "shuffle": 1}},
    "data_augment": {"a": {"annotation": "whole.jsonl", "data_augment": True}},
    **{
        f"{key}={value}": {"a": {"annotation": "whole.jsonl", key: value}}
        for key in ("repeat_time", "weight", "max_dynamic_patch")
        for value in (-1, 0, 1e300, "word", [], True, float("nan"), float("inf"), 10**30)
    },
    "a weight for some": {"a": {"annotation": "whole.jsonl", "weight": 1}, "b": {"annotation": "whole.jsonl"}},
    "a tiny share": {"a": {"annotation": "whole.jsonl", "repeat_time": 1e-9}},
}


def cases(folder: Path) -> Iterator[Case]:
    """Make each file in a folder, and the commands that read it."""
    folder.mkdir(parents=True)
    for number, (name, record) in enumerate(RECORDS.items()):
        path = folder / f"{name}.jsonl"
        path.write_text(f"{json.dumps(record)}\n" * _NUMBER)
        yield (_check, _trained, _refusing)[number % 3](path)
    (folder / "whole.jsonl").write_text(f"{json.dumps(RECORD)}\n" * _NUMBER)
    (folder / "metas").mkdir()
    (folder / "metas" / "whole.jsonl").write_text(f"{json.dumps(RECORD)}\n" * _NUMBER)
    for number, (name, meta) in enumerate(METAS.items()):
        path = folder / "metas" / f"{number} {name[:100]}.json".replace("/", " ")
        if name == "annotation is the list":
            path = path.with_name("meta.json")
        path.write_text(json.dumps(meta))
        yield (_check if number % 2 else _trained)(path)
    for number, (name, content) in enumerate(_files().items()):
        (folder / name).write_bytes(content)
        yield (_trained if number % 2 else _check)(folder / name)
    yield from _folders(folder)
    yield from _options(folder / "whole.jsonl")
    yield from _texts(folder / "texts")


def _check(path: Path, *more: str) -> Case:
    # its findings are its output
    shown = ("--teacher", str(SHIPPED_FOLDER), "--held-out-share", "0.5")
    return Case(("data", "check", str(path), *shown, *more), may_print=True)


def _trained(path: Path, *more: str) -> Case:
    data = (f"data.conversations.path='{path}'", "data.conversations.held_out_share=0.5")
    return Case(("distill", "stage=1", "data=conversations", *data, "stage_1.steps=1", "figures=[]", *more))


def _refusing(path: Path) -> Case:
    return _trained(path, "data.on_bad_sample=refuse")


def _files() -> dict[str, bytes]:
    """Whole files by name."""
    lines = "\n".join(json.dumps(RECORD) for _ in range(_NUMBER))
    listed = f"[{lines.replace(chr(10), ',')}]".encode()
    table = _parquet([dict(RECORD)] * _NUMBER)
    shard = _tar({f"{number}.json": json.dumps(RECORD).encode() for number in range(_NUMBER)})
    return {
        "gzip.jsonl": b"\x1f\x8b\x08\x00" + bytes(20),
        "zip.json": b"PK\x03\x04" + bytes(20),
        "zstd.jsonl": b"\x28\xb5\x2f\xfd" + bytes(20),
        "zeros.jsonl": bytes(10_000),
        "latin.jsonl": '{"conversations": "\xfc"}\n'.encode("latin-1") * _NUMBER,
        "nested lines.jsonl": (b"[" * 20_000 + b"\n") * _NUMBER,
        "one long line.jsonl": b'{"conversations": "' + b"x" * 3_000_000,
        "no end.json": listed[:-1],
        "something behind.json": listed + b"]",
        "brackets.json": b"[" * 50_000,
        "half a string.json": b'["' + b"x" * 2_000_000,
        "numbers.json": b"[1, 2, 3]",
        "strings.json": b'["a", "b"]',
        "empty list.json": b"[]",
        "an object.json": b'{"a": 1}',
        "an empty object.json": b"{}",
        "cut.parquet": table[: len(table) // 2],
        "no footer.parquet": table[:-8],
        "magic alone.parquet": b"PAR1",
        "long footer.parquet": table[:-8] + b"\xff\xff\xff\x7fPAR1",
        "noise in the footer.parquet": table[:-60] + bytes(40) + table[-20:],
        "noise in the pages.parquet": table[:4] + bytes(range(256)) + table[260:],
        "other columns.parquet": _parquet([{"a": 1}]),
        "no rows.parquet": _parquet([], {"conversations": pa.string()}),
        "numbers.parquet": _parquet([{"conversations": 5}] * _NUMBER),
        "no JSON.parquet": _parquet([{"conversations": "word"}] * _NUMBER),
        "wrong bytes.parquet": _parquet([{**RECORD, "image": {"bytes": b"x", "path": "a.png"}}] * _NUMBER),
        "cut.tar": shard[: len(shard) // 2 - 100],
        "noise.tar": shard[:512] + bytes(range(256)) * 8 + shard[2560:],
        "long member.tar": _with_size(shard, 0o77777777777),
        "negative member.tar": _with_size(shard, -5),
        "pictures alone.tar": _tar({f"{number}.png": b"x" for number in range(_NUMBER)}),
        "no pictures.tar": _tar(
            {f"{number}.{ending}": data for number in range(_NUMBER) for ending, data in _members()}
        ),
        "no JSON.tar": _tar({f"{number}.json": b"word" for number in range(_NUMBER)}),
        "no samples.tar": _tar({".": b"", "a": b"x"}),
        "gzip.tar": b"\x1f\x8b\x08\x00" + shard[4:],
    }


def _members() -> list[tuple[str, bytes]]:
    asked = {"conversations": [{"value": "<image>"}, {"value": "even"}]}
    return [("json", json.dumps(asked).encode()), ("png", b"no picture")]


def _parquet(rows: list[dict[str, Any]], columns: Mapping[str, Any] | None = None) -> bytes:
    file = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=None if columns is None else pa.schema(columns.items()))
    pq.write_table(table, file)
    return file.getvalue()


def _tar(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _with_size(shard: bytes, size: int) -> bytes:
    """A shard whose first member says that it has another size."""
    field = b"%011o\0" % size if size >= 0 else b"\xff" * 12
    header = shard[:124] + field + shard[136:148] + b" " * 8 + shard[156:512]
    return header[:148] + b"%06o\0 " % sum(header) + shard[156:]


def _folders(folder: Path) -> Iterator[Case]:
    makers: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "two kinds": lambda path: [(path / name).write_text("{}") for name in ("a.jsonl", "b.tar")],
        "a folder with a name of a file": lambda path: (path / "a.jsonl").mkdir(),
        "a broken link": lambda path: (path / "a.jsonl").symlink_to("gone"),
        "a circle": lambda path: (path / "a.jsonl").symlink_to("a.jsonl"),
    }
    for number, (name, make) in enumerate(makers.items()):
        path = folder / name
        path.mkdir()
        make(path)
        yield (_trained if number % 2 else _check)(path)
    for path in (folder / "gone", Path("/dev/null"), Path("/dev/zero"), Path("/proc/self/mem"), Path("a" * 5000)):
        yield _check(path)
        yield _trained(path)


def _options(whole: Path) -> Iterator[Case]:
    for value in ("nan", "-1", "0", "word", "1e300", "99999999999999999999999"):
        yield _check(whole, "--max-length", value)
    yield Case(("data", "check", str(whole), "--max-length", "5"))
    yield Case(("data", "check"))
    yield Case(("data", "word"))
    for place in ("gone", "/dev/null", "", "ünï"):
        yield Case(("data", "check", str(whole), "--teacher", place))
    yield Case(("data", "check", str(whole), "--nothing"))
    for key in ("data.on_bad_sample=word", "data.on_bad_sample=[]", "data.on_bad_sample=1", "data.on_bad_sample={a:1}"):
        yield _trained(whole, key)
    for value in ("nan", "-1", "2", "word", "1e300", "null"):
        yield _trained(whole, f"data.conversations.held_out_share={value}")
    yield _trained(whole, "data.conversations.image_folder=[a]")
    yield _trained(whole, "data.conversations.max_tiles=3")
    yield _trained(whole, "+data.text.folder=a")
    for value in ("0", "-1", "word", "1e300"):
        yield Case(("distill", "stage=1", "student=serving", f"student.hybrid.number={value}", "stage_1.steps=1"))
    for key in ("norm_eps=-1", "norm_eps=nan", "norm_eps=word", "norm_before_gate=word", "conv_kernel=0"):
        yield Case(("distill", "stage=1", "student=serving", f"student.mixer.{key}", "stage_1.steps=1"))


def _texts(folder: Path) -> Iterator[Case]:
    contents = {
        "a.jsonl": b'{"text": 3}\n',
        "b.jsonl": b"word\n",
        "c.jsonl": b'{"text": "\\ud800"}\n',
        "d.jsonl": b"[" * 100_000,
        "e.jsonl": b"",
        "f.parquet": b"PAR1",
        "g.parquet": _parquet([{"a": 1}]),
        "h.parquet": _parquet([{"text": 5}] * 3),
        "i.parquet": _parquet([{"text": "even"}])[:-8],
        "j.md": b"\xff\xfe\x00",
    }
    for name, content in contents.items():
        path = folder / name.partition(".")[0] / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        yield Case(("distill", "stage=1", "data=text", f"data.text.folder={path.parent}", "stage_1.steps=1"))
    for key in ("split_by=word", "split_by=3", "piece_length=1", "held_out_share=nan", "held_out_share=7"):
        yield Case(("distill", "stage=1", "data=text", f"data.text.{key}", "stage_1.steps=1"))
    yield Case(("distill", "stage=1", "data=text", f"data.text.folder={folder / 'gone'}", "stage_1.steps=1"))
