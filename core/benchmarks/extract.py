"""Which answer a text gives: yes or no, one of several options, or a few words to be compared.

The rules are those of VLMEvalKit without a judge, so that scores can be compared with published ones; its version and
answers on which both were compared are in tests/golden/benchmarks.
"""

import re
from collections.abc import Mapping

REFUSED = "Z"
"""In place of an option: the text says that it cannot answer."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_LONELY_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
# VLMEvalKit passes a flag in the place of the number of replacements: later periods stay
_MOST_PERIODS = int(re.UNICODE)

_AROUND_LETTERS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_FAILED = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
# a letter farther from the end is rather a word, such as the article A
_LAST_WORDS = 5

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
# with every apostrophe; written with exactly one of them left out, a word is put right
_CONTRACTIONS = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]
_REPAIRED = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


def without_punctuation(text: str) -> str:
    """The text with marks of punctuation removed, or replaced by spaces where they join words.

    This is the normalisation of VQA's official evaluation: all marks go if one stands beside a space, or if there is a
    number with a comma in the text.
    """
    is_number = _COMMA_IN_NUMBER.search(text) is not None
    kept = text
    for mark in _PUNCTUATION:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if is_beside_space or is_number else " ")
    return _LONELY_PERIOD.sub("", kept, count=_MOST_PERIODS)


def yes_or_no(text: str) -> bool | None:
    """Whether a text says yes; None if it says neither yes nor no, or both."""
    words = without_punctuation(text.lower()).split()
    says_yes, says_no = "yes" in words, "no" in words
    return None if says_yes == says_no else says_yes


def option_of(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that a text names, `REFUSED` for none of them, or None if that cannot be told.

    The letter counts, in capitals and among the last words; without one, the text of exactly one option that occurs in
    an answer that is not much longer than all options.
    """
    return _named_letter(text, options) or _quoted_option(text, options)


def short_answer(text: str) -> str:
    """A text as VQA compares it: lower case, no punctuation, no articles, small numbers as digits."""
    plain = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = (_NUMBERS.get(word, word) for word in plain.lower().split())
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def _named_letter(text: str, options: Mapping[str, str]) -> str | None:
    if _FAILED in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_AROUND_LETTERS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1:
        return named[0] if words.index(named[0]) > len(words) - _LAST_WORDS else None
    return REFUSED if not named and REFUSED in words else None


def _quoted_option(text: str, options: Mapping[str, str]) -> str | None:
    lower = text.lower()
    if len(lower) > 2 * sum(map(len, options.values())):
        return None
    quoted = [letter for letter, option in options.items() if option.lower() in lower]
    return quoted[0] if len(quoted) == 1 else None
