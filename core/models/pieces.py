"""A prompt in pieces, which a decoding state takes in one after the other: memory then does not grow with the prompt.

A tile of an image is never cut, since its patches are computed together.
"""

# Letters: B batch, T tokens.

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lab.core.models.config import Vision
from lab.core.models.decoder import Inputs

# as many as keep the processor busy; a layer's widest activations are then smaller than its weights
PIECE_TOKENS = 1024


def pieces(inputs: Inputs, vision: Vision | None, *, most: int = PIECE_TOKENS) -> Iterator[Inputs]:
    """The parts of a prompt, in order.

    Args:
        inputs: rows that are padded, or whose tiles do not fit their image tokens, are one piece.
        vision: how the model reads images; None for a model of text only.
        most: tokens of a piece, and of `hd_tokens` where the model reads them; a tile may have more.
    """
    num_tokens = inputs.tokens.shape[1]
    longest = num_tokens if inputs.hd_tokens is None else max(num_tokens, inputs.hd_tokens.shape[1])
    places = None if inputs.lengths is not None or longest <= most else _places(inputs, vision)
    if places is None:
        yield inputs
        return
    cuts = places.can_be_cut.nonzero()[:, 0]
    reach = torch.maximum(cuts, places.hd_position[cuts]).tolist()
    begin = 0
    for i in range(1, len(reach)):
        # as much as fits; at least up to the next cut
        if i + 1 == len(reach) or reach[i + 1] - reach[begin] > most:
            yield _piece(inputs, places, int(cuts[begin]), int(cuts[i]))
            begin = i


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a prompt may be cut; every entry is about what is before a token, the last about the end.

    Attributes:
        can_be_cut: in every row.
        num_tiles: of each row.
        hd_position: tokens of `hd_tokens`, the same in every row where it can be cut.
    """

    can_be_cut: Bool[Tensor, " T1"]
    num_tiles: Int[Tensor, "B T1"]
    hd_position: Int[Tensor, " T1"]


def _places(inputs: Inputs, vision: Vision | None) -> _Places | None:
    """None if tokens, tiles and `hd_tokens` do not match, which the model says better."""
    tokens = inputs.tokens.cpu()
    before = torch.zeros(len(tokens), tokens.shape[1] + 1, dtype=torch.int64)
    num_tiles, sizes = before, [1, 1]
    if vision is not None and inputs.pixel_values is not None:
        both = (tokens, tokens if inputs.hd_tokens is None else inputs.hd_tokens.cpu())
        totals = [int((each == vision.image_token_id).sum()) for each in both]
        tiles = len(inputs.pixel_values)
        if not tiles or any(total % tiles or not total for total in totals):
            return None
        sizes = [total // tiles for total in totals]
        before[:, 1:] = (tokens == vision.image_token_id).cumsum(dim=1)
        num_tiles = before // sizes[0]
    hd_position = torch.arange(before.shape[1]) + num_tiles * (sizes[1] - sizes[0])
    can_be_cut = (before % sizes[0] == 0).all(dim=0) & (hd_position == hd_position[0]).all(dim=0)
    hd_length = inputs.tokens.shape[1] if inputs.hd_tokens is None else inputs.hd_tokens.shape[1]
    if not can_be_cut[-1] or int(hd_position[0, -1]) != hd_length:
        return None
    return _Places(can_be_cut, num_tiles, hd_position[0])


def _piece(inputs: Inputs, places: _Places, start: int, stop: int) -> Inputs:
    pixel_values = inputs.pixel_values
    if pixel_values is not None:
        totals = places.num_tiles[:, -1]
        first = totals.cumsum(dim=0) - totals
        rows = [
            pixel_values[int(first[row] + at[start]) : int(first[row] + at[stop])]
            for row, at in enumerate(places.num_tiles)
        ]
        tiles = torch.cat(rows)
        pixel_values = tiles if len(tiles) else None
    hd_tokens = inputs.hd_tokens
    if hd_tokens is not None:
        hd_tokens = hd_tokens[:, int(places.hd_position[start]) : int(places.hd_position[stop])]
    return Inputs(tokens=inputs.tokens[:, start:stop], pixel_values=pixel_values, hd_tokens=hd_tokens)
