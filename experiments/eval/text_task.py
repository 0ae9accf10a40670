"""A text: cross-entropy and perplexity with a sliding window, and divergence from a teacher of the same vocabulary.

The first window of a document predicts all of its tokens but the first; each later one moves on by `stride` tokens and
predicts those, so that every token is predicted once, the later ones with at least context - stride tokens before them.
Documents are cut for each model by its own tokenizer: between vocabularies, bits per byte can be compared. Their bytes
are those of the predicted tokens: where no token opens a sequence, the first one of a document is not predicted.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lab.core.benchmarks.accuracy import ratio
from lab.core.benchmarks.spec import Scores, Totals
from lab.core.benchmarks.totals import table_of
from lab.core.data.documents import documents_in, documents_of_python
from lab.core.data.sample import is_held_out
from lab.core.data.texts import TextConfig
from lab.core.errors import InputError
from lab.core.models.config import max_length
from lab.core.models.decoder import Inputs
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.load import FoundModel
from lab.experiments.eval.answering import Respondent, compared, nll
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.divergence import divergence_of
from lab.experiments.eval.divergence import unit_of as unit_of_divergence
from lab.experiments.eval.rows import PieceRow
from lab.experiments.eval.task import Measured, Rows

# the documentation that comes with Python, the part that `data=text` holds out
PYTHON = "python"
# tokens of one byte, of which the longest character has as many
_MOST_SHARING = 4
_UNITS = {"cross-entropy": "nats a token", "perplexity": "", "bits per byte": "bits"}


class Piece(NamedTuple):
    """What a window predicts.

    Attributes:
        document: number of the document.
        start, stop: of the window in the tokens of the document.
        num_predicted: the last tokens of the window, which are predicted.
    """

    document: int
    start: int
    stop: int
    num_predicted: int


class Cut(NamedTuple):
    """The tokens of each document, and the windows."""

    ids_of: list[list[int]]
    pieces: list[Piece]


class TextTask:
    """See `Task`."""

    num_left_out = 0

    def __init__(self, word: str, name: str, config: EvalConfig) -> None:
        """Read the documents.

        Raises:
            InputError: if there are none, or one is not text.
        """
        self.word = word
        self._config = config
        self._documents = [text for text in _documents(name) if text][: config.limit]
        if not self._documents:
            raise InputError(f"{word} holds no text; name another file or folder")
        self.digest = hashlib.blake2b("\0".join(self._documents).encode(), digest_size=16).hexdigest()
        # of the tokenizer that was used last
        self._last: tuple[Tokenizer, Cut] | None = None

    def refuse(self, found: FoundModel, label: str) -> None:
        """See `Task.refuse`."""
        longest = max_length(found.architecture)
        if self._config.context > longest:
            raise InputError(
                f"context={self._config.context}: {label} was trained on at most {longest} tokens; lower it"
            )
        try:
            for text in self._documents:
                found.tokenizer.encode(text)
        except InputError as error:
            raise InputError(f"{self.word} for {label}: {error}") from None

    def size(self, respondent: Respondent | None) -> int:
        """See `Task.size`; without a model, the documents."""
        return len(self._documents if respondent is None else self.cut(respondent.opened.tokenizer).pieces)

    def sample(self, place: int, respondent: Respondent, teacher: Respondent | None, earlier: Rows) -> PieceRow:
        """See `Task.sample`: the likelihood of a window's tokens."""
        ids_of, pieces = self.cut(respondent.opened.tokenizer)
        piece = pieces[place]
        window = ids_of[piece.document][piece.start : piece.stop]
        inputs = Inputs(tokens=torch.tensor([window[:-1]], device=next(respondent.opened.model.parameters()).device))
        scores = respondent.scores(inputs, piece.num_predicted)
        row: PieceRow = {
            "kind": "piece",
            "model": respondent.label,
            "task": self.word,
            "place": place,
            "document": piece.document,
            "nll": float(nll(scores, window[-piece.num_predicted :]).double().sum()),
            "num_tokens": piece.num_predicted,
            "num_bytes": 0 if piece.start else self._num_bytes(piece.document, respondent.opened.tokenizer),
        }
        if teacher is None:
            return row
        theirs = teacher.scores(inputs, piece.num_predicted)
        near = compared(scores, theirs)
        return {**row, "kl": near.kl, "agreeing": near.agreeing, "num_compared": near.num_compared}

    def _num_bytes(self, document: int, tokenizer: Tokenizer) -> int:
        """Bytes of a document whose tokens are predicted: all, but those of a first token that nothing opens."""
        text = self._documents[document]
        known = (
            0 if tokenizer.bos_id is not None else bytes_of_first(text, self.cut(tokenizer).ids_of[document], tokenizer)
        )
        return len(text.encode()) - known

    def measured(self, rows: Rows) -> list[Measured]:
        """See `Task.measured`."""
        counted: dict[str, dict[str, float]] = {}
        for row in rows:
            counts = counted.setdefault(str(row["document"]), {"nll": 0.0, "tokens": 0.0, "bytes": 0.0})
            counts["nll"] += row["nll"]
            counts["tokens"] += row["num_tokens"]
            counts["bytes"] += row["num_bytes"]
        of_text = Measured(
            table_of(counted),
            _scores,
            ("cross-entropy",),
            lambda name: _UNITS.get(name, unit_of_divergence(name)),
            lambda name: False,
            is_lower_better=True,
        )
        return [of_text, *divergence_of(rows)]

    def chance(self) -> Measured | None:
        """See `Task.chance`."""
        return None

    def cut(self, tokenizer: Tokenizer) -> Cut:
        """The tokens of each document, and the windows of them."""
        if self._last is None or self._last[0] is not tokenizer:
            self._last = tokenizer, self._newly_cut(tokenizer)
        return self._last[1]

    def _newly_cut(self, tokenizer: Tokenizer) -> Cut:
        context, stride = self._config.context, self._config.stride
        bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        ids_of = [bos + tokenizer.encode(text) for text in self._documents]
        pieces = []
        for document, ids in enumerate(ids_of):
            stop = min(context, len(ids))
            if stop > 1:
                pieces.append(Piece(document, 0, stop, stop - 1))
            while stop < len(ids):
                before, stop = stop, min(stop + stride, len(ids))
                pieces.append(Piece(document, stop - context, stop, stop - before))
        return Cut(ids_of, pieces)


def bytes_of_first(text: str, ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many bytes of a text its first token stands for, with spaces before it that have no token.

    A character that several tokens share is divided evenly among them.

    Args:
        text: that was encoded.
        ids: its tokens.
        tokenizer: that encoded it.
    """
    bare = text.lstrip()
    for number in range(1, min(len(ids), _MOST_SHARING) + 1):
        piece = tokenizer.decode(ids[:number])
        if piece and text.startswith(piece):
            return len(piece.encode()) // number
        # some tokenizers have no token for a first space, or give none back
        if piece.strip() and bare.startswith(piece.lstrip()):
            return (len(text.encode()) - len(bare[len(piece.lstrip()) :].encode())) // number
    # its text is not in the document, as where a tokenizer has one case only
    return len(tokenizer.decode(ids[:1]).encode())


def _documents(name: str) -> list[str]:
    if name == PYTHON:
        share = TextConfig().held_out_share
        return [text for text in documents_of_python() if is_held_out(text.encode(), share)]
    if not Path(name).exists():
        raise InputError(f"{name} does not exist; give a text file, a folder of them, or {PYTHON}")
    return list(documents_in(Path(name)))


def _scores(totals: Totals) -> Scores:
    mean = ratio(totals["nll"], totals["tokens"])
    per_byte = ratio(totals["nll"], totals["bytes"]) / math.log(2)
    return {"cross-entropy": mean, "perplexity": np.exp(mean), "bits per byte": per_byte}
