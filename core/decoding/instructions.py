"""The steps that a program is made of, as `src/decode.cpp` reads them: each structure is the one of its name there."""

import ctypes
from enum import IntEnum
from typing import ClassVar

# tokens of a cache that a task of attention reads, as in `src/decode_attention.h`
PART_TOKENS = 2048

_POINTER, _WHOLE, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class Step(ctypes.Structure):
    """Base of the steps.

    Attributes:
        operation: its number.
    """

    operation: ClassVar[int]


class Embed(Step):
    """Rows of the table of embeddings."""

    operation = 0
    _fields_ = [("tokens", _POINTER), ("table", _POINTER), ("x", _POINTER), ("vocabulary", _WHOLE), ("width", _WHOLE)]


class Product(Step):
    """A norm, if there is one, and a linear layer, or the two whose outputs make a SwiGLU."""

    operation = 1
    _fields_ = [
        *((name, _POINTER) for name in ("x", "norm", "weight", "bias", "up", "up_bias", "y")),
        *((name, _WHOLE) for name in ("inputs", "outputs", "is_added")),
        ("eps", _NUMBER),
    ]


class Positions(ctypes.Structure):
    """How queries and keys get their positions: part of other steps."""

    _fields_ = [
        *((name, _POINTER) for name in ("lengths", "cos", "sin", "q_norm", "k_norm")),
        ("pairs", _WHOLE),
        ("eps", _NUMBER),
    ]


class Attend(Step):
    """Softmax attention over a cache."""

    operation = 2
    _fields_ = [
        *((name, _POINTER) for name in ("qkv", "keys", "values", "heads", "parts", "num_done")),
        ("positions", Positions),
        *((name, _WHOLE) for name in ("groups", "queries", "width", "slots")),
    ]


class Operands(Step):
    """Values, keys and queries of a recurrence."""

    operation = 3
    _fields_ = [
        *((name, _POINTER) for name in ("vkq", "before", "taps", "bias")),
        ("positions", Positions),
        *((name, _WHOLE) for name in ("groups", "queries", "width", "num_taps")),
    ]


class Recurrence(ctypes.Structure):
    """What both recurrences have: part of them."""

    _fields_ = [
        *((name, _POINTER) for name in ("state", "vkq", "A_log", "dt_bias", "y")),
        *((name, _WHOLE) for name in ("groups", "queries", "width")),
    ]


class Ssd(Step):
    """The state-space recurrence."""

    operation = 4
    _fields_ = [("recurrence", Recurrence), ("dt", _POINTER), ("D", _POINTER)]


class Delta(Step):
    """The gated delta rule."""

    operation = 5
    _fields_ = [
        ("recurrence", Recurrence),
        *((name, _POINTER) for name in ("a", "b")),
        *((name, _NUMBER) for name in ("scale", "unit_eps")),
    ]


class Gate(Step):
    """A norm of each head and its gate, in either order."""

    operation = 6
    _fields_ = [
        *((name, _POINTER) for name in ("y", "logits", "norm")),
        *((name, _WHOLE) for name in ("groups", "queries", "width", "is_sigmoid", "norm_first")),
        ("eps", _NUMBER),
    ]


class Order(IntEnum):
    """When a step may begin."""

    any_time = 0
    """As soon as a thread comes to it."""
    meeting = 1
    """When everything before it is done."""
    joined = 2
    """Each of its tasks right after the same task of the step before, on the same thread."""


class Instruction(ctypes.Structure):
    """A step, and when it may begin."""

    _fields_ = [("operation", _WHOLE), ("order", _WHOLE), ("arguments", _POINTER)]
