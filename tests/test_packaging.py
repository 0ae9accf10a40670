"""The wheel holds what the checkout holds: an editable install would not notice that a package is missing."""

import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("api", "cli", "conf", "core", "experiments")


def has_build_backend() -> bool:
    """setuptools is not a dependency of ours: where it is missing or too old, pip fetches it."""
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    # from a copy: a build leaves folders beside its sources
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    tracked = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()]
    assert {path.suffix for path in tracked} >= {
        ".py",
        ".yaml",
        ".typed",
        ".npz",
        ".cpp",
        ".h",
        ".safetensors",
        ".json",
    }
    for path in [*tracked, *(ROOT / name for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"))]:
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    isolation = ["--no-build-isolation"] if has_build_backend() else []
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", str(tmp_path), str(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("ssm_lab-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"lab/{path.relative_to(ROOT)}".replace("lab/api/", "lab/") for path in tracked}
    assert expected - held == set()
    assert (
        "lab = lab.cli.start:main"
        in zipfile.ZipFile(wheel).read(next(name for name in held if name.endswith("entry_points.txt"))).decode()
    )
