"""Sequences side by side, each with its own length: once an answer has ended, its row takes another prompt."""

# Letters: B rows, V vocabulary.

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from lab.core.decoding.program import HasLength, NoProgramError, Program
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.steps import Steps, program_of, read


class Rows:
    """A state of B rows. A prompt is read into its row alone; then one step takes a token of every row.

    What a row gives does not depend on the others: they share the weights that a step reads, and nothing else. No row
    is padded, so a recurrent state holds its own tokens only.

    Attributes:
        how: what computes the steps, in words; see `Steps`.
        room: tokens of a row, prompt and answer together.
        num_bytes: of all rows.
    """

    def __init__(self, model: LanguageModel, num_rows: int, *, room: int, hd_room: int | None = None) -> None:
        """Empty rows.

        Args:
            model: in evaluation mode.
            num_rows: B.
            room: tokens of a row, prompt and answer together.
            hd_room: the same of `Inputs.hd_tokens`, where the model reads them.
        """
        self.room = room
        self._model = model
        state = model.allocate_state(num_rows, max_length=room, hd_max_length=hd_room)
        self.num_bytes = state.num_bytes
        self._rows = [DecodingState(tuple(layer.row(row) for layer in state.layers)) for row in range(num_rows)]
        self._program: Program | None = None
        self._alone: list[Steps] = []
        try:
            self._program = program_of(model, state, self._owners(state))
            self.how = "compiled"
        except NoProgramError as reason:
            self._alone = [Steps(model, row) for row in self._rows]
            self.how = f"{self._alone[0].how}, row by row ({reason})"

    def read(self, row: int, prompt: Inputs) -> Float[Tensor, " V"]:
        """The scores of the token after a prompt of one row, which takes the place of whatever the row held.

        Raises:
            InputError: if the prompt does not fit.
        """
        self.free(row)
        return read(self._model, self._rows[row], prompt)[0]

    def free(self, row: int) -> None:
        """Empty a row; it takes part in steps without being anybody's."""
        for layer in self._rows[row].layers:
            layer.clear()

    def step(self, tokens: Int[Tensor, " B"], *, is_free: Sequence[bool]) -> Float[Tensor, "B V"]:
        """The scores of the tokens after these, which the rows take in; of free rows they mean nothing.

        Args:
            tokens: of each row; any token of a free one.
            is_free: whether a row is nobody's.
        """
        if self._program is None:
            table = self._model.input_embedding
            scores = table.weight.new_zeros(len(tokens), table.num_embeddings)
            for row, steps in enumerate(self._alone):
                if not is_free[row]:
                    scores[row] = steps.logits(Inputs(tokens=tokens[row].view(1, 1)))[0]
            return scores
        for row, layers in enumerate(self._rows):
            if is_free[row]:
                for layer in layers.layers:
                    layer.length = 0
        return self._program.run(tokens[:, None])

    def _owners(self, state: DecodingState) -> "_Owners":
        by_layer = zip(state.layers, zip(*(row.layers for row in self._rows), strict=True), strict=True)
        return _Owners({id(whole): rows for whole, rows in by_layer})


class _Owners:
    """For the state of a layer, the states of its rows."""

    def __init__(self, rows: dict[int, Sequence[HasLength]]) -> None:
        self._rows = rows

    def __call__(self, state: HasLength) -> Sequence[HasLength]:
        return self._rows[id(state)]
