"""Text of files and arguments in what is printed."""

import unicodedata

# control characters, invisible ones that turn the direction of writing, and bytes of a path that cannot be decoded
_ESCAPED = ("Cc", "Cf", "Cs")


def printable(text: str) -> str:
    """One line, in which whatever a terminal would obey or hide is written as an escape.

    Titles, keys and paths may come from somebody else's files.
    """
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _ESCAPED else character
        for character in " ".join(text.split())
    )
