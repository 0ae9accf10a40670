"""Small C++ libraries beside this file: compiled at first use with a plain C interface, kept in the user's cache.

No header of torch or Python is included, so a build takes seconds. A library is used only by the source, compiler and
processor that it was built by and for. Without a compiler the caller uses torch instead, and can say why.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

# on macOS it must be said that functions of Python are found in the process that loads the library
_FOR_PYTHON = ("-Wl,-undefined,dynamic_lookup",) if platform.system() == "Darwin" else ()
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", *_FOR_PYTHON)
# the first is refused by some compilers for ARM, the second by those for x86
_THIS_PROCESSOR = ("-march=native", "-mcpu=native")
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Native:
    """A library, or why there is none.

    Attributes:
        library: what was built; None if it could not be.
        why_not: the reason and the fix; None if it was built.
    """

    library: ctypes.CDLL | None
    why_not: str | None


@cache
def load_native(source: str, *optional: str) -> Native:
    """The library of `source`, a file in `src`, the folder next to this module; built now if it was not yet.

    `optional` are flags that are left out where the compiler does not know them.
    """
    compiler = find_compiler()
    if compiler is None:
        return Native(None, "no C++ compiler was found; install g++ or clang++, or name one in CXX")
    folder = Path(__file__).parent / "src"
    try:
        path = _cache_folder() / f"{Path(source).stem}-{_key(folder, source, compiler, optional)}.so"
        if not path.exists():
            _build(compiler, folder / source, path, optional)
        return Native(ctypes.CDLL(str(path)), None)
    except subprocess.CalledProcessError as error:
        first = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr.strip()[:200])
        return Native(None, f"{compiler} could not build {source}: {first}; name another compiler in CXX")
    except subprocess.TimeoutExpired:
        return Native(None, f"{compiler} did not build {source} in {_TIMEOUT_S} s; name another compiler in CXX")
    except OSError as error:
        return Native(None, f"{source} could not be built or loaded: {error}; set XDG_CACHE_HOME to a writable folder")


def find_compiler() -> str | None:
    """Path of the C++ compiler: what CXX names and nothing else if it is set, else the first that is found."""
    named = os.environ.get("CXX")
    for name in (named,) if named else ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return path
    return None


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssm-lab" / "native"


def _key(folder: Path, source: str, compiler: str, optional: tuple[str, ...]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    parts = [compiler, version, platform.machine(), _processor_features(), *_FLAGS, *_THIS_PROCESSOR, *optional]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in (folder / source, *sorted(folder.glob("*.h"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor_features() -> str:
    """What `native` means: a home folder may be shared by machines with different processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _build(compiler: str, source: Path, path: Path, optional: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, then renamed: two processes may build at once, and none loads a part of a file
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        for processor, extra in product(_THIS_PROCESSOR, dict.fromkeys((optional, ()))):
            command = [compiler, *_FLAGS, processor, *extra, "-o", partial, str(source)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
            if done.returncode == 0 or not any(flag in done.stderr for flag in (processor, *extra)):
                break
        done.check_returncode()
        os.chmod(partial, 0o755)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
