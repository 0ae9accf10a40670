"""What the models and the data need of a tokenizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lab.core.data.jinja_chat import JinjaChat


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def bos_id(self) -> int | None:
        """The id that opens every sequence, if there is one."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The id that stands behind the end of a text, if there is one."""
        ...

    @property
    def chat(self) -> "JinjaChat | None":
        """The template that came with it, by which a text model writes conversations, if there is one."""
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


@runtime_checkable
class Fingerprinted(Protocol):
    """A tokenizer that knows a digest of all that its ids depend on, so that they can be kept on disk."""

    @property
    def digest(self) -> str:
        """The digest, in hexadecimal digits."""
        ...
