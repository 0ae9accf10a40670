"""Small C++ libraries with a plain C interface, compiled at first use and kept in the user's cache.

No torch or Python headers are included, so a build takes seconds. The cache key covers source, compiler and processor.
Without a compiler the caller falls back to torch, and can report why.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from lab.core.native.cache import find_library, library_folder, new_library

# on macOS the linker must be told that Python's symbols are resolved in the loading process
_FOR_PYTHON = ("-Wl,-undefined,dynamic_lookup",) if platform.system() == "Darwin" else ()
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", *_FOR_PYTHON)
# the first is refused by some compilers for ARM, the second by those for x86
_THIS_PROCESSOR = ("-march=native", "-mcpu=native")
_TIMEOUT_S = 300
_SOURCES = Path(__file__).parent / "src"


@dataclass(frozen=True, slots=True)
class Native:
    """A compiled library, or the reason why it is missing.

    Attributes:
        library: the loaded library; None if it could not be built.
        why_not: the reason and the fix; None if it was built.
    """

    library: ctypes.CDLL | None
    why_not: str | None


@cache
def load_native(source: str, *optional: str) -> Native:
    """The library compiled from `src/<source>`, built on first use.

    Flags in `optional` are dropped if the compiler does not know them.
    """
    compiler = find_compiler()
    if compiler is None:
        return Native(None, "no C++ compiler was found; install g++ or clang++, or name one in CXX")
    try:
        folder, name = library_folder(), _name(source, compiler, optional)
        path = find_library(folder, name)
        if path is None:
            with new_library(folder, name) as unnamed:
                _build(compiler, _SOURCES / source, unnamed, optional)
            path = find_library(folder, name) or folder / f"{name}.so"
        return Native(_loaded(path), None)
    except subprocess.CalledProcessError as error:
        first = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr.strip()[:200])
        return Native(None, f"{compiler} could not build {source}: {first}; name another compiler in CXX")
    except subprocess.TimeoutExpired:
        return Native(None, f"{compiler} did not build {source} in {_TIMEOUT_S} s; name another compiler in CXX")
    except OSError as error:
        return Native(None, f"{source} could not be built or loaded: {error}; set XDG_CACHE_HOME to a writable folder")


def library_name(source: str, *optional: str) -> str | None:
    """The name of the library that `load_native` loads, without building it; None if there is no compiler.

    It changes with source, compiler and processor.
    """
    compiler = find_compiler()
    try:
        return None if compiler is None else _name(source, compiler, optional)
    except (OSError, subprocess.SubprocessError):
        return None


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        # what a compiler wrote here is not a library; another attempt starts afresh
        path.unlink(missing_ok=True)
        raise


def find_compiler() -> str | None:
    """Path of the C++ compiler: only CXX if it is set, else the first one found."""
    named = os.environ.get("CXX")
    for name in (named,) if named else ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return path
    return None


def compiler_version() -> str | None:
    """The compiler of the loops, in one line; None if there is none that answers."""
    compiler = find_compiler()
    try:
        return None if compiler is None else _version(compiler).partition("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def _version(compiler: str) -> str:
    return subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=True
    ).stdout


def _name(source: str, compiler: str, optional: tuple[str, ...]) -> str:
    parts = [
        compiler,
        _version(compiler),
        platform.machine(),
        processor_features(),
        *_FLAGS,
        *_THIS_PROCESSOR,
        *optional,
    ]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in (_SOURCES / source, *sorted(_SOURCES.glob("*.h"))):
        digest.update(path.read_bytes())
    return f"{Path(source).stem}-{digest.hexdigest()[:16]}"


def processor_features() -> str:
    """What `native` means here: machines with different processors may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _build(compiler: str, source: Path, path: Path, optional: tuple[str, ...]) -> None:
    for processor, extra in product(_THIS_PROCESSOR, dict.fromkeys((optional, ()))):
        command = [compiler, *_FLAGS, processor, *extra, "-o", str(path), str(source)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
        if done.returncode == 0 or not any(flag in done.stderr for flag in (processor, *extra)):
            break
    done.check_returncode()
