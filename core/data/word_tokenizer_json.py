"""The tokenizer of a fixed list of words as the `tokenizer.json` that the library tokenizers reads."""

from pathlib import Path

from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END
from lab.core.data.tokenizers import CLOSING, PADDING, PIECE, SPECIAL_TOKENS, WordTokenizer
from lab.core.runs.atomic_files import write_atomically
from lab.core.runs.json_files import write_json


def write_word_tokenizer(tokenizer: WordTokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` beside the list of words.

    Ids and text are those of `WordTokenizer`; a word that is not in the list is an error there too.

    Raises:
        RunError: if the disk is full or cannot be written.
    """
    # transformers needs the library too
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    made = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokenizer.tokens)}, "[UNK]"))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE.pattern), "isolated"),
            # what is between words: nothing is left of it
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
        ]
    )
    glued = [*sorted(CLOSING), *SPECIAL_TOKENS]
    made.decoder = decoders.Sequence(
        [
            # a space in front of each token but the first
            decoders.WordPiece(prefix="\0", cleanup=False),
            *(decoders.Replace(f" {token}", token) for token in glued),
            decoders.Fuse(),
            decoders.Replace("> ", ">"),
            decoders.Replace("\n ", "\n"),
        ]
    )
    write_atomically(folder / "tokenizer.json", made.to_str(pretty=True))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "pad_token": PADDING,
        "extra_special_tokens": {
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE_CONTEXT,
        },
    }
    write_json(folder / "tokenizer_config.json", settings)
