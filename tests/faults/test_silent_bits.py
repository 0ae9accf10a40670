"""A wrong bit, a cut, or a file that is gone in what commands leave behind: said, or without any effect.

LAB_TEST_FAULTS=all tries many more places; LAB_TEST_SEED repeats them.
"""

import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faults.share import ALL

from drawn import SEED
from lab.core.data.texts import TextConfig, Texts
from reference.characters import Characters

pytestmark = pytest.mark.slow

Lab = Callable[..., Any]
PLACES = 24
BAG = "How many pictures show a bag?"
_TICKS = itertools.count(time.time_ns(), 10**6)
_FEW = ("--max-new-tokens", "4", "--threads", "1")


def some(paths: Sequence[Path], draw: random.Random) -> list[Path]:
    """All files, or two of them where time is short."""
    return list(paths) if ALL else draw.sample(list(paths), min(2, len(paths)))


def damages(path: Path, draw: random.Random) -> Iterator[str]:
    """Damage a file in one way after the other; it is whole again at the end."""
    whole = path.read_bytes()
    for _ in range(PLACES if ALL else 1):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        _write(path, changed)
        yield "bit"
    _write(path, whole[: draw.randrange(len(whole))])
    yield "cut"
    path.unlink()
    yield "gone"
    _write(path, whole)


def _write(path: Path, content: bytes) -> None:
    """At another time than what was there: clocks of file systems tick every few milliseconds."""
    path.write_bytes(content)
    moved = next(_TICKS)
    os.utime(path, ns=(moved, moved))


@pytest.fixture
def draw(request: pytest.FixtureRequest, record_property: Any) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A distillation that has left out samples."""
    # loads torch, which collecting these tests does not
    from reference.toy_evaluation import distilled_from  # noqa: PLC0415

    return distilled_from(teacher, tmp_path_factory.mktemp("trained") / "student", "stage=1")


@pytest.mark.parametrize("layout", ["mmmamba", "transformers"])
def test_an_exported_folder(layout: str, trained: Path, draw: random.Random, lab: Lab, tmp_path: Path) -> None:
    if layout == "transformers":
        pytest.importorskip("transformers")
    folder, run = tmp_path / "student", trained.with_name("student-run")
    assert lab("export", str(run), str(folder), "--format", layout).code == 0
    words = ("generate", str(folder), "--prompt", BAG, *_FEW)
    expected, number = lab(*words).out, 0
    for path in some(sorted(folder.iterdir()), draw):
        for damage in damages(path, draw):
            done = lab(*words)
            number += 1
            assert "Traceback" not in done.err
            if path.name == "SHA256SUMS":
                # nothing is known of a folder without it, or of a file that it names otherwise
                assert (done.code, done.out) in ((0, expected), (2, "")), (damage, done)
            else:
                assert (done.code, done.err.count("\n")) == (2, 1), (path.name, damage, done)
    assert lab(*words).out == expected
    print(f"{number} damages")


def test_answers_to_requests(draw: random.Random, lab: Lab, tmp_path: Path) -> None:
    requests, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests.write_text("".join(json.dumps({"prompt": f"{BAG} " * count}) + "\n" for count in range(1, 6)))
    words = ("generate", "shipped", "--requests", str(requests), str(answers), *_FEW)
    assert lab(*words).code == 0
    whole = answers.read_bytes()

    def said() -> list[str]:
        return [json.loads(line)["answer"]["text"] for line in answers.read_bytes().splitlines()]

    expected, number, refused = said(), 0, 0
    for _ in range(3 if ALL else 1):
        for damage in damages(answers, draw):
            done = lab(*words)
            number += 1
            refused += done.code == 2
            assert "Traceback" not in done.err
            if done.code == 0:
                assert said() == expected, (damage, done)
            else:
                assert (done.code, damage) == (2, "bit")
                assert f"{answers}, line " in done.err
        answers.write_bytes(whole)
    assert refused or not ALL
    print(f"{number} damages")


def test_token_ids_that_are_kept(
    draw: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lab.core.data import token_cache  # noqa: PLC0415

    class Known(Characters):
        digest = "characters"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = tmp_path / "texts"
    texts.mkdir()
    for place in range(20):
        (texts / f"{place}.txt").write_text(f"text {place} " * 40)

    def read() -> list[bytes]:
        token_cache._mapped.cache_clear()
        found = Texts(TextConfig(folder=texts, piece_length=16), split="train", tokenizer=Known(), image_size=8)
        return [found[index].conversation.llm_ids.tobytes() for index in range(len(found))]

    expected = read()
    (folder,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_dir() and (path / "ids.npy").exists())
    number = 0
    for path in sorted(folder.iterdir()):
        for damage in damages(path, draw):
            capsys.readouterr()
            assert read() == expected, (path.name, damage)
            number += 1
            # a digit of a digest in capitals is the same digit
            is_said = "is damaged and made again" in capsys.readouterr().err
            assert is_said or (path.name, damage) == ("SHA256SUMS", "bit")
    print(f"{number} damages")


def test_what_an_evaluation_leaves(draw: random.Random, lab: Lab, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    words = ("eval", "shipped", "picture_questions:6", "threads=1", "resamples=50", "figures=[]", "max_new_tokens=4")
    assert lab(*words, f"hydra.run.dir={whole}").code == 0
    kept = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file() and path.name != ".lock"]
    results = {name: (whole / name).read_bytes() for name in kept if name.suffix in (".parquet", ".tsv")}
    assert any(name.suffix == ".tsv" for name in results)
    shown = lab("show", str(whole)).out.replace(str(whole), "RUN")
    number = 0
    for name in some([name for name in kept if ".hydra" not in name.parts and name.suffix != ".log"], draw):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        for damage in damages(run / name, draw):
            number += 1
            seen, done = lab("show", str(run)), None
            assert "Traceback" not in seen.err
            # `gone` of what it does not need
            assert seen.code == 2 or seen.out.replace(str(run), "RUN") == shown, (name, damage, seen)
            done = lab("eval", f"resume={run}")
            assert "Traceback" not in done.err
            assert done.code in (0, 2), (name, damage, done)
            if done.code == 0:
                assert {each: (run / each).read_bytes() for each in results} == results, (name, damage)
            shutil.rmtree(run)
            shutil.copytree(whole, run)
    print(f"{number} damages")
