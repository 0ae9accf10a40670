"""A program: compiled steps that take one token of every row through a whole model (`core/native/src/decode.cpp`)."""

# Letters: B batch, V vocabulary.

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.core.decoding.instructions import Instruction
from lab.core.errors import InputError
from lab.core.native.build import load_native

# rows up to which a step is bound by the bytes of the weights
MOST_ROWS = 16
# dtypes of weights and caches; whether they are narrow, as the loop asks
_NARROW = {torch.float32: False, torch.bfloat16: True}


class NoProgramError(Exception):
    """Why a model has no program: a part of it that no step computes, or a device or dtype."""


class HasLength(Protocol):
    """The state of a layer, as far as a program knows it."""

    length: int


@dataclass(frozen=True, slots=True)
class Clock:
    """The numbers of tokens that the rows of a layer's state have seen.

    Attributes:
        states: their owners: one for each row, or one for all.
        most: tokens that a program can take them to; None: any number.
        lengths: where the steps read the numbers.
    """

    states: tuple[HasLength, ...]
    most: int | None
    lengths: Int[Tensor, " B"]

    def has_room(self) -> bool:
        """Whether every row can take one more token."""
        return self.most is None or all(state.length < self.most for state in self.states)

    def set(self) -> None:
        """Tell the steps."""
        if len(self.states) == 1:
            self.lengths.fill_(self.states[0].length)
        else:
            self.lengths.copy_(torch.tensor([state.length for state in self.states]))

    def advance(self) -> None:
        """Count a token."""
        for state in self.states:
            state.length += 1


class Program:
    """Steps over tensors that are read and written in place; made by `lab.core.decoding.writer.Writer`.

    Sums are in float32, and results are the same for any number of threads.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        *,
        dtype: torch.dtype,
        tokens: Int[Tensor, " B"],
        logits: Float[Tensor, "B V"],
        clocks: Sequence[Clock],
        kept: Sequence[object],
    ) -> None:
        """A program.

        Args:
            instructions: in order.
            dtype: of weights and caches.
            tokens: where the instructions read the tokens.
            logits: where they leave the scores.
            clocks: of all states that they advance.
            kept: everything else that they point to.
        """
        self._instructions = (Instruction * len(instructions))(*instructions)
        self._is_narrow = _NARROW[dtype]
        self._tokens = tokens
        self._logits = logits
        self._clocks = tuple(clocks)
        self._kept = tuple(kept)

    def has_room(self) -> bool:
        """Whether every state can take one more token."""
        return all(clock.has_room() for clock in self._clocks)

    def run(self, tokens: Int[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
        """The scores of the tokens after these, which all states take in; they are overwritten by the next call.

        Raises:
            InputError: if a token has no embedding; nothing is changed then.
        """
        assert self.has_room(), "the caller asks first"
        self._tokens.copy_(tokens[:, 0])
        for clock in self._clocks:
            clock.set()
        count, rows = len(self._instructions), len(self._tokens)
        if not _loop()(self._instructions, count, rows, self._is_narrow, torch.get_num_threads()):
            raise InputError(f"tokens hold {tokens[:, 0].tolist()} but ids must be those of the model's embeddings")
        for clock in self._clocks:
            clock.advance()
        return self._logits


def refuse_what_has_no_loop(rows: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse what no program can be made for; builds the loop.

    Raises:
        NoProgramError: saying why.
    """
    if device.type != "cpu":
        raise NoProgramError(f"the model is on {device}")
    if dtype not in _NARROW:
        raise NoProgramError(f"the weights are {str(dtype).removeprefix('torch.')}")
    if rows > MOST_ROWS:
        raise NoProgramError(f"there are {rows} rows, more than {MOST_ROWS}")
    why_not = load_native("decode.cpp", "-fopenmp").why_not
    if why_not is not None:
        raise NoProgramError(why_not)


@cache
def _loop() -> Callable[..., bool]:
    # OpenMP shares its threads with torch's own loops, so they are already awake
    library = load_native("decode.cpp", "-fopenmp").library
    assert library is not None, "refuse_what_has_no_loop was asked before"
    loop: Callable[..., bool] = library.decode
    loop.restype = ctypes.c_bool  # type: ignore[attr-defined]
    loop.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_bool, ctypes.c_int]  # type: ignore[attr-defined]
    return loop
