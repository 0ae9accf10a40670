"""SHA256SUMS: damage to any bit of a folder is found, and a file that was changed on purpose has a way."""

import json
import subprocess
from pathlib import Path

import pytest

from lab.core.errors import CheckpointError, RunError
from lab.core.runs.json_files import read_json_object
from lab.core.runs.record import Run
from lab.core.runs.sums import SUMS, check_file, check_files, write_sums

# the last two are written with escapes
NAMES = ("config.json", "a b.txt", "ü.bin", "back\\slash", "line\nbreak")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with SHA256SUMS."""
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode() * 3)
    write_sums(tmp_path)
    return tmp_path


def faults(folder: Path) -> str | None:
    try:
        check_files(folder, hint="copy it again", error=CheckpointError)
    except CheckpointError as error:
        return str(error)
    return None


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_bit_is_found_by_the_name_of_its_file(folder: Path, name: str) -> None:
    assert faults(folder) is None
    whole = (folder / name).read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        (folder / name).write_bytes(flipped(whole, bit))
        said = faults(folder)
        assert said is not None
        assert said.startswith(f"{folder / name} is damaged or was changed")
        assert said.endswith(f"; copy it again, or delete its line in {folder / SUMS} if you changed it on purpose")
        with pytest.raises(RunError, match="is damaged or was changed"):
            check_file(folder / name, hint="", error=RunError)
    (folder / name).unlink()
    assert "is listed in SHA256SUMS but cannot be read (No such file or directory)" in (faults(folder) or "")


def test_no_wrong_bit_of_the_list_leaves_a_file_unwatched(folder: Path) -> None:
    whole = (folder / SUMS).read_bytes()
    (folder / "config.json").write_bytes(b"other")
    for bit in range(0, 8 * len(whole), 7):
        changed = flipped(whole, bit)
        (folder / SUMS).write_bytes(changed)
        assert faults(folder) is not None


def test_a_file_that_was_changed_on_purpose_is_taken_without_its_line(folder: Path) -> None:
    (folder / "config.json").write_text('{"mine": 1}')
    with pytest.raises(RunError, match="is damaged or was changed"):
        read_json_object(folder / "config.json", hint="copy it again")
    lines = (folder / SUMS).read_bytes().splitlines(keepends=True)
    (folder / SUMS).write_bytes(b"".join(line for line in lines if b"config.json" not in line))
    assert read_json_object(folder / "config.json", hint="copy it again") == {"mine": 1}
    assert faults(folder) is None
    (folder / "a b.txt").write_text("other")
    assert faults(folder) is not None
    (folder / SUMS).unlink()
    assert faults(folder) is None


def test_a_run_that_ended_has_digests_and_one_that_goes_on_has_none(tmp_path: Path) -> None:
    with Run(tmp_path, {"seed": 0}, [], {}, b"") as run:
        run.save_summary(["a"], [[1 / 3]], [])
        assert not (tmp_path / SUMS).exists()
    assert faults(tmp_path) is None
    content = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(content).replace("0.3", "0.4"))
    with pytest.raises(RunError, match=r"summary\.json is damaged or was changed"):
        read_json_object(tmp_path / "summary.json", hint="")
    with Run(tmp_path, {"seed": 0}, [], {}, b"") as run:
        assert not (tmp_path / SUMS).exists()
        run.save_summary(["a"], [[1 / 3]], [])
    assert faults(tmp_path) is None


@pytest.mark.slow
def test_sha256sum_compares_the_same_files(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count(": OK\n")) == (0, len(NAMES))
    theirs = subprocess.run(["sha256sum", *NAMES], cwd=folder, capture_output=True, check=True).stdout
    assert sorted(theirs.splitlines()) == sorted((folder / SUMS).read_bytes().splitlines())
