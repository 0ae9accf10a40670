"""Shards of WebDataset: no member is lost without a word, and pictures come in the order of their numbers."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from lab.core.data.bad_samples import BadSample
from lab.core.data.conversation_files.record import said
from lab.core.data.conversation_files.tar import TarShard
from lab.core.errors import InputError

RECORD = json.dumps({"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}).encode()


def written(path: Path, *members: str | tuple[str, bytes, str], **more: str) -> Path:
    """An archive of records, of pictures that hold their own names, and of links: name, type, target."""
    with tarfile.open(path, "w", **more) as archive:  # type: ignore[call-overload]
        for each in members:
            name, kind, target = each if isinstance(each, tuple) else (each, tarfile.REGTYPE, "")
            content = b"" if target else RECORD if name.endswith(".json") else name.encode(errors="replace")
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def shard(path: Path) -> TarShard:
    return TarShard(path, lambda key: False)


def pictures(path: Path, index: int = 0) -> list[str]:
    return [bytes(each).decode() for each in said(shard(path).read(index)).pictures]  # type: ignore[arg-type]


HEADER = 1024 * 4


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda whole: whole[: HEADER + 100] + b"\xff" + whole[HEADER + 101 :], "is damaged behind member 4"),
        (lambda whole: whole[: HEADER + 200], "ends behind member 4 without the zeros that end an archive"),
        (lambda whole: whole[:HEADER], "ends behind member 4 without the zeros"),
        (lambda whole: whole[: HEADER + 512], "is cut off, damaged or compressed behind member 5"),
        (lambda whole: whole * 2, "has something behind its end, which is behind member 10: another archive"),
    ],
    ids=["a damaged header", "cut in a header", "cut between members", "cut behind a header", "two archives"],
)
def test_what_follows_the_last_member_that_is_read_is_not_lost(damage: object, says: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", *(f"{number}.json" for number in range(10)))
    whole = path.read_bytes()
    assert len(shard(path)) == 10
    path.write_bytes(whole[: 1024 * 10 + 512])
    assert len(shard(path)) == 10, "one block of zeros ends an archive as well"
    path.write_bytes(damage(whole))  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        shard(path)


def test_pictures_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = sorted(f"a.{number}.png" for number in range(12))
    path = written(tmp_path / "a.tar", "a.json", *names)
    assert pictures(path) == [f"a.{number}.png" for number in range(12)]
    path = written(tmp_path / "a.tar", "a.1.jpg", "a.json", "a.00.PNG", "a.right.png", "a.left.png")
    assert pictures(path) == ["a.00.PNG", "a.1.jpg", "a.right.png", "a.left.png"]


def test_every_ending_of_a_picture_is_known(tmp_path: Path) -> None:
    endings = ("ppm", "pgm", "jp2", "j2k", "jfif", "jpe", "dib", "JPEG")
    path = written(tmp_path / "a.tar", "a.json", *(f"a.{ending}" for ending in endings))
    assert pictures(path) == [f"a.{ending}" for ending in endings]
    # what is beside samples
    path = written(
        tmp_path / "a.tar", "a.json", "a.txt", "a.cls", "a.npy", "a.__key__", "a.meta.json", "README", ".b.json"
    )
    assert pictures(path) == []


@pytest.mark.parametrize("ending", ["avif", "img", "mp4"])
def test_a_member_that_is_not_read_makes_a_bad_sample(ending: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", "a.json", f"a.{ending}", "b.json")
    with pytest.raises(BadSample, match=rf"member with the ending \.{ending} is neither a record, nor a picture"):
        shard(path).read(0)
    assert pictures(path, 1) == []


def test_links_lead_to_members_of_the_archive(tmp_path: Path) -> None:
    links = (
        ("x/b.png", tarfile.LNKTYPE, "./x/a.png"),
        ("x/c.png", tarfile.SYMTYPE, "../x/a.png"),
        ("x/d.png", tarfile.SYMTYPE, str(tmp_path)),
    )
    path = written(
        tmp_path / "a.tar",
        *("x/a.json", "x/a.png"),
        *(each for link in links for each in (link[0][:3] + ".json", link)),
    )
    assert pictures(path, 1) == pictures(path, 2) == ["x/a.png"]
    with pytest.raises(BadSample, match=r"ending \.png is no file that is whole in the archive, but a link"):
        shard(path).read(3)


def test_names_may_be_of_another_encoding(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", "\udce9.json", "\udce9.png", errors="surrogateescape")
    assert len(shard(path)) == 1
