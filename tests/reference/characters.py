"""A tokenizer for any text, which another process can import."""

import re
from collections.abc import Sequence

from lab.core.data.tokenizers import SPECIAL_TOKENS

_SPECIAL = re.compile(f"({'|'.join(map(re.escape, SPECIAL_TOKENS))})")


class Characters:
    """Special tokens, then one id for each character."""

    bos_id = None
    eos_id: int | None = None

    def __len__(self) -> int:
        return len(SPECIAL_TOKENS) + 0x110000

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in _SPECIAL.split(text):
            ids += (
                [self.id_of(piece)] if piece in SPECIAL_TOKENS else [len(SPECIAL_TOKENS) + ord(each) for each in piece]
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(
            SPECIAL_TOKENS[i] if i < len(SPECIAL_TOKENS) else chr(i - len(SPECIAL_TOKENS)) for i in map(int, ids)
        )

    def id_of(self, token: str) -> int:
        return len(SPECIAL_TOKENS) + ord(token) if len(token) == 1 else SPECIAL_TOKENS.index(token)
