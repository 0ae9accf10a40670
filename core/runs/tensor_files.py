"""Write tensors to safetensors files; a disk that is full is an OSError as with any other file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lab.core.runs.atomic_files import default_mode, flush

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a file, readable as any other of the user's, and flush it to disk.

    Raises:
        OSError: if it cannot be written.
    """
    # copies: safetensors refuses tensors that share memory or have gaps
    on_cpu = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(on_cpu, path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    path.chmod(default_mode())
    flush(path)
