"""The compiled loop of the divergence (`core/native/src/divergence.cpp`)."""

# Letters: R rows, V vocabulary.

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.errors import InputError
from lab.core.native.build import load_native

SOURCE = "divergence.cpp"
_TYPES = {torch.float32: ("float32", ctypes.c_float), torch.float64: ("float64", ctypes.c_double)}
_ARRAYS = ("student", "teacher", "labels", "kl_weight", "cross_entropy_weight", "kl", "cross_entropy")


def why_not() -> str | None:
    """Why the loop cannot run; None if it can. Builds the loop."""
    return load_native(SOURCE, "-fopenmp").why_not


def rows(
    student: Float[Tensor, "R V"],
    teacher: Float[Tensor, "R V"],
    labels: Int[Tensor, " R"],
    weights: tuple[Float[Tensor, " R"], Float[Tensor, " R"]] | None,
    *,
    temperature: float,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """As `lab.core.divergence.rows.divergence_rows`, with contiguous scores in float32 or float64 on the CPU.

    Raises:
        InputError: if a label is not a token of the vocabulary.
    """
    if int(labels.max()) >= student.shape[1]:
        raise InputError(
            f"labels hold {int(labels.max())} but must lie below the vocabulary's {student.shape[1]} tokens"
        )
    kl, cross_entropy = (student.new_empty(len(student)) for _ in range(2))
    labels = labels.to(torch.int64).contiguous()
    kept = None if weights is None else [weight.to(student.dtype).contiguous() for weight in weights]
    arrays = [student, teacher, labels, *(kept or (None, None)), kl, cross_entropy]
    name, scalar = _TYPES[student.dtype]
    arguments = _arguments(scalar)(
        *(None if array is None else array.data_ptr() for array in arrays), *student.shape, temperature
    )
    _loop(name)(ctypes.byref(arguments), torch.get_num_threads())
    return kl, cross_entropy


@cache
def _arguments(scalar: type) -> type[ctypes.Structure]:
    """`Arrays` there."""
    fields = [
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        ("rows", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
        ("temperature", scalar),
    ]
    return type("Arrays", (ctypes.Structure,), {"_fields_": fields})


@cache
def _loop(name: str) -> Callable[..., None]:
    # OpenMP shares its threads with torch's own loops, so they are already awake
    library = load_native(SOURCE, "-fopenmp").library
    assert library is not None, "why_not was asked before"
    loop: Callable[..., None] = library[f"divergence_rows_{name}"]
    loop.restype = None  # type: ignore[attr-defined]
    loop.argtypes = [ctypes.c_void_p, ctypes.c_int]  # type: ignore[attr-defined]
    return loop
