"""`lab eval MODEL... TASK...`: words that are no overrides, as the keys that they stand for."""

import re
from collections.abc import Sequence
from pathlib import Path

from lab.core.errors import ConfigError

TSV = ".tsv"
TEXT, LIKELIHOOD = "text", "likelihood"
EASY_VQA = "easy_vqa"
# tasks that need no file
BUILT_IN = ("picture_questions", EASY_VQA)
# BENCHMARK:FILE.tsv and text:PATH; a run may be followed by @STAGE:VARIANT
_KIND = re.compile(r"[a-z_]+:.*")
# flags of Hydra that take the word behind them
_WITH_VALUE = frozenset(
    [
        "--cfg",
        "-c",
        "--info",
        "-i",
        "--package",
        "-p",
        "--config-dir",
        "-cd",
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
    ]
)


def overrides_of(words: Sequence[str]) -> list[str]:
    """A command line in which models and tasks are overrides: words with = and flags are left as they are.

    A path that exists, or a task as `KIND:PATH`, may have a = in its name.

    Args:
        words: as they were typed.

    Raises:
        ConfigError: if models or tasks are given as words and as an override.
    """
    given: dict[str, list[str]] = {"models": [], "tasks": []}
    rest = []
    for before, word in zip(["", *words], words, strict=False):
        if _is_override(word) or word.startswith("-") or before in _WITH_VALUE:
            rest.append(word)
        else:
            given["tasks" if is_task(word) else "models"].append(word)
    for key, found in given.items():
        if found and any(word.startswith(f"{key}=") for word in rest):
            raise ConfigError(f"{found[0]} and {key}=: give {key} as words or as an override, not both")
    return [*(f"{key}=[{','.join(map(_quoted, found))}]" for key, found in given.items() if found), *rest]


def _is_override(word: str) -> bool:
    return "=" in word and not has_kind(word) and not Path(word).exists()


def is_task(word: str) -> bool:
    """Whether a word names a task, not a model."""
    return word.endswith(TSV) or word in BUILT_IN or has_kind(word)


def has_kind(word: str) -> bool:
    """Whether a word begins with the kind of a task, known or not."""
    return _KIND.fullmatch(word) is not None


def _quoted(word: str) -> str:
    """A word in Hydra's grammar, taken literally."""
    # the command line loads Hydra once a command needs it
    from hydra.core.override_parser.types import Quote, QuotedString  # noqa: PLC0415

    return QuotedString(text=word, quote=Quote.single).with_quotes()
