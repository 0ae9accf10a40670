"""Scores of the next token, piece by piece of a sequence: single tokens through a compiled program, where there is one.

Both ways read and write the same state, so one may follow the other at any token. What a program computes differs from
torch's layers by rounding only.
"""

# Letters: B batch, V vocabulary.

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.decoding.program import HasLength, NoProgramError, Program
from lab.core.decoding.writer import Writer
from lab.core.models.decoder import Inputs, LanguageModel, refuse_unknown_tokens
from lab.core.models.decoding_state import DecodingState
from lab.core.models.pieces import pieces
from lab.core.products import current


class Steps:
    """A model, and the state of the sequences that it is decoding.

    Attributes:
        model: in evaluation mode; its weights stay where they are.
        state: of the tokens so far.
        how: what computes single tokens, in words: a compiled program or torch, and why.
    """

    def __init__(self, model: LanguageModel, state: DecodingState) -> None:
        """Write the program of a model, if there is one; compiles the loop if nobody has yet."""
        self.model = model
        self.state = state
        self._program: Program | None = None
        try:
            self._program = program_of(model, state)
            self.how = "compiled"
        except NoProgramError as reason:
            self.how = f"torch ({reason})"

    @torch.no_grad()
    def logits(self, inputs: Inputs) -> Float[Tensor, "B V"]:
        """The scores of the token after those of `inputs`, which the state takes in; valid until the next call.

        A long prompt is read in pieces, with the results of one pass up to rounding.

        Raises:
            InputError: as `LanguageModel.hidden`; the state may then hold a part of the prompt.
        """
        if self.state.length == 0:
            _refuse_unknown(self.model, self.state, inputs)
        if self._program is not None and _is_token(inputs) and self._program.has_room():
            return self._program.run(inputs.tokens)
        return read(self.model, self.state, inputs)


@torch.no_grad()
def read(model: LanguageModel, state: DecodingState, inputs: Inputs) -> Float[Tensor, "B V"]:
    """The scores of the token after those of `inputs`, which the state takes in piece by piece, by torch's layers.

    Raises:
        InputError: as `LanguageModel.hidden`; the state may then hold a part of the prompt.
    """
    # before the state has taken in anything
    _refuse_unknown(model, state, inputs)
    for piece in pieces(inputs, model.config.vision):
        hidden = model.hidden(piece, state)[:, -1:]
    return model.logits(hidden)[:, 0]


def _refuse_unknown(model: LanguageModel, state: DecodingState, inputs: Inputs) -> None:
    count = model.input_embedding.num_embeddings
    refuse_unknown_tokens(inputs.tokens, count, is_start=state.length == 0)


def program_of(
    model: LanguageModel,
    state: DecodingState,
    owners: Callable[[HasLength], Sequence[HasLength]] = lambda state: (state,),
) -> Program:
    """The compiled program that takes a token of every row.

    Args:
        model: in evaluation mode.
        state: of all rows.
        owners: see `Writer`.

    Raises:
        NoProgramError: if there is none, saying why.
    """
    if current.STATE.name != current.AUTO:
        raise NoProgramError(f"products={current.STATE.name} was asked for")
    weight = model.input_embedding.weight
    # of keys and values, or of a recurrence
    rows = state.layers[0].tensors()[0].shape[0]
    return model.write_step(Writer(rows, dtype=weight.dtype, device=weight.device, owners=owners), state)


def _is_token(inputs: Inputs) -> bool:
    is_text = inputs.pixel_values is None and inputs.hd_tokens is None and inputs.lengths is None
    return is_text and inputs.tokens.shape[1] == 1 and not torch.is_autocast_enabled("cpu")
