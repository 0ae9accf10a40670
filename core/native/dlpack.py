"""Tensor access for compiled loops without a Python call per property (`src/tensors.h`).

Uses the DLPack 1.3 exchange API, which describes a tensor given its Python object; torch has it from 2.10 on.
"""

import ctypes
from functools import cache

import torch

_MAJOR = 1


class _Functions(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "previous",
                "managed_tensor_allocator",
                "managed_tensor_from_object",
                "managed_tensor_to_object",
                "tensor_from_object",
                "current_work_stream",
            )
        ),
    ]


class Exchange(ctypes.Structure):
    """`Exchange` of src/tensors.h."""

    _fields_ = [("describe", ctypes.c_void_p), ("tensor_type", ctypes.py_object)]


@cache
def tensor_exchange() -> Exchange | None:
    """The exchange API that compiled loops read tensors with; None if this torch has none."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    functions = _Functions.from_address(pointer_of(capsule, b"dlpack_exchange_api"))
    return Exchange(functions.tensor_from_object, torch.Tensor) if functions.major == _MAJOR else None
