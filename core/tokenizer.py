"""What the models and the data need of a tokenizer."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def bos_id(self) -> int | None:
        """The id that opens every sequence, if there is one."""
        ...

    def __len__(self) -> int:
        """Number of ids that have a text: all those below it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Special tokens in it are recognised, none is added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        ...

    def id_of(self, token: str) -> int:
        """The id of a single token, such as `<|im_end|>`."""
        ...
