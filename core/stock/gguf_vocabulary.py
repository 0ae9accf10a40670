"""The tokenizer of a student under the keys of llama.cpp: those of a GGUF teacher, or made of tokenizer.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.core.data.public_tokenizers import GgufTokenizer, JsonTokenizer
from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.folder import ModelFolder
from lab.core.runs.json_files import read_json_object
from lab.core.stock.gguf_file import keys_in
from lab.core.stock.gguf_granitehybrid import Value
from lab.core.tokenizer import Tokenizer

PREFIX = "tokenizer."
_CHAT = f"{PREFIX}chat_template"
# kinds of tokens
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_INSTEAD = "--format transformers would do"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# how a text is cut before pairs of bytes are joined, and whether a piece that is a token is taken whole: llama.cpp
# knows these by name
_CUTS = {
    ((("ByteLevel", True),), False): "gpt-2",
    ((("Digits", True), ("ByteLevel", True)), False): "smollm",
    ((("Split", _LLAMA3), ("ByteLevel", False)), True): "llama-bpe",
}


def vocabulary(
    tokenizer: Tokenizer, teacher: ModelFolder | None, *, vocab_size: int, stop_ids: frozenset[int]
) -> dict[str, Value]:
    """The keys of a tokenizer, its chat template among them.

    Args:
        tokenizer: of the student.
        teacher: whose files are read; None for a vocabulary of a built-in task.
        vocab_size: rows of the table of tokens.
        stop_ids: tokens that end an answer.

    Raises:
        CheckpointError: if the teacher's files are damaged.
        ConfigError: if llama.cpp has no such tokenizer, or it has more tokens than the table has rows.
    """
    if isinstance(tokenizer, GgufTokenizer):
        assert teacher is not None, "its file"
        keys = keys_in(teacher.path, PREFIX)
        # without it llama.cpp decides by the name of the vocabulary
        keys.setdefault(f"{PREFIX}ggml.add_bos_token", tokenizer.bos_id is not None)
        tokens = keys.get(f"{PREFIX}ggml.tokens")
        num_tokens = len(tokens) if isinstance(tokens, list) else 0
    elif isinstance(tokenizer, JsonTokenizer):
        assert teacher is not None, "its folder"
        path = teacher.path / "tokenizer.json"
        content = read_json_object(path, hint="copy it again", error=CheckpointError)
        keys = _of_json(path, content, vocab_size)
        keys |= _of_special(tokenizer, stop_ids)
        num_tokens = len(tokenizer)
    else:
        kind = "tokenizer.model" if teacher is not None else "the vocabulary of a built-in task"
        raise ConfigError(f"{kind}: llama.cpp gets byte-level vocabularies of tokenizer.json or GGUF; {_INSTEAD}")
    if num_tokens > vocab_size:
        raise ConfigError(f"the tokenizer has {num_tokens} tokens, the table vocab_size={vocab_size}; {_INSTEAD}")
    return keys


def has_chat_template(keys: Mapping[str, Value]) -> bool:
    """Whether there is one among the keys of a tokenizer."""
    return _CHAT in keys


def _of_json(path: Path, content: Mapping[str, Any], vocab_size: int) -> dict[str, Value]:
    """The vocabulary, merges and kinds of tokens of a byte-level tokenizer.json."""
    try:
        model = content["model"]
        if model.get("type", "BPE") != "BPE" or content.get("normalizer") is not None or model.get("byte_fallback"):
            raise ConfigError(f"{path}: llama.cpp gets tokenizers of byte pairs without normalizer only; {_INSTEAD}")
        cut = (_steps(content.get("pre_tokenizer")), bool(model.get("ignore_merges")))
        if cut not in _CUTS:
            raise ConfigError(
                f"{path}: its pre_tokenizer is none of those of {', '.join(_CUTS.values())}, which llama.cpp has names "
                f"for; {_INSTEAD}"
            )
        names = {int(index): str(token) for token, index in model["vocab"].items()}
        kinds = dict.fromkeys(names, _NORMAL)
        for token in content.get("added_tokens", []):
            names[token["id"]] = token["content"]
            kinds[token["id"]] = _CONTROL if token.get("special") else _USER_DEFINED
        # ids may have gaps
        if max(names) >= vocab_size:
            raise ConfigError(f"{path}: a token has id {max(names)}, the table vocab_size={vocab_size}; {_INSTEAD}")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        if not merges:
            raise ConfigError(f"{path}: merges=[]: llama.cpp reads no tokenizer without any; {_INSTEAD}")
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a tokenizer ({error}); copy it again") from None
    return {
        f"{PREFIX}ggml.model": "gpt2",
        f"{PREFIX}ggml.pre": _CUTS[cut],
        # rows of the table without a text
        f"{PREFIX}ggml.tokens": [names.get(index, f"[PAD{index}]") for index in range(vocab_size)],
        f"{PREFIX}ggml.token_type": [kinds.get(index, _UNUSED) for index in range(vocab_size)],
        f"{PREFIX}ggml.merges": merges,
    }


def _of_special(tokenizer: JsonTokenizer, stop_ids: frozenset[int]) -> dict[str, Value]:
    """What opens a text, what ends one and what ends an answer, and the chat template."""
    keys: dict[str, Value] = {f"{PREFIX}ggml.add_bos_token": tokenizer.bos_id is not None}
    if tokenizer.bos_id is not None:
        keys[f"{PREFIX}ggml.bos_token_id"] = tokenizer.bos_id
    ends = sorted(stop_ids - {tokenizer.eos_id})
    if tokenizer.eos_id is not None:
        keys[f"{PREFIX}ggml.eos_token_id"] = tokenizer.eos_id
    elif ends:
        keys[f"{PREFIX}ggml.eos_token_id"] = ends.pop(0)
    # what ends a turn of a conversation, a turn to call a tool, and nothing more: llama.cpp has these three
    if len(ends) > 2:
        raise ConfigError(
            f"generation_config.json: answers end at {len(stop_ids)} tokens, llama.cpp has keys for three; {_INSTEAD}"
        )
    for name, end in zip(("eot", "eom"), reversed(ends), strict=False):
        keys[f"{PREFIX}ggml.{name}_token_id"] = end
    if tokenizer.chat is not None:
        keys[_CHAT] = tokenizer.chat.source
    return keys


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    """The steps of a pre_tokenizer, each with the one option that matters here."""
    if pre_tokenizer is None:
        return ()
    if pre_tokenizer["type"] == "Sequence":
        each: Sequence[Mapping[str, Any]] = pre_tokenizer["pretokenizers"]
        return tuple(step for part in each for step in _steps(part))
    kind = str(pre_tokenizer["type"])
    if kind == "ByteLevel" and not pre_tokenizer.get("add_prefix_space", True):
        return ((kind, pre_tokenizer.get("use_regex", True)),)
    if kind == "Digits":
        return ((kind, pre_tokenizer.get("individual_digits", False)),)
    if kind == "Split" and pre_tokenizer.get("behavior") == "Isolated" and not pre_tokenizer.get("invert"):
        return ((kind, pre_tokenizer["pattern"].get("Regex")),)
    return ((kind, "another"),)
