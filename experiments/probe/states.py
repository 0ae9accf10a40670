"""Hidden states of a model behind some layers, computed once and kept on disk in the user's cache.

A folder is named by a digest of the weights, of what the model reads and of the settings:

layer-10.f32     states behind layer 10, row by row; float32, read by mapping the file into memory
rows.npz         of each row: its context, its token and the next token; ids of next tokens and their embeddings
meta.json        numbers of rows and columns
SHA256SUMS       digests of these, compared when they are opened

One batch is in memory at a time, whatever the number of rows.
"""

# Letters: N rows, D width of the model, L layers, V next tokens that occur.

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import Tensor

from lab.core.data.batch import Batch
from lab.core.data.chat_template import IGNORED
from lab.core.errors import InputError, RunError
from lab.core.native.cache import user_cache
from lab.core.runs.atomic_files import folder_atomically
from lab.core.runs.console import progress
from lab.core.runs.sums import SUMS, check_files, write_sums
from lab.core.streams import say
from lab.experiments.distill.data import Data
from lab.experiments.distill.data_sources import DataConfig
from lab.experiments.distill.hidden_states import states_behind
from lab.experiments.distill.loss_mask import inputs_of
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.teacher import digest

# raised when what is written changes
_VERSION = 2
_BATCH = 8


@dataclass(frozen=True, slots=True)
class StateRequest:
    """Which states.

    Attributes:
        layers: numbers from 1.
        num_contexts: windows of text, or samples of a task.
        skip: first tokens of a context that give no row.
        answers_only: whether rows are only those whose next token is part of an answer.
        seed: random seed of which contexts.
    """

    layers: tuple[int, ...]
    num_contexts: int
    skip: int
    answers_only: bool
    seed: int


@dataclass(frozen=True, slots=True)
class States:
    """States of all layers on disk.

    Attributes:
        folder: where they are.
        contexts: number of the context of each row.
        tokens: id of the token that a row stands at.
        following: place of the next token in `embedding`.
        following_ids: its id.
        embedding: of next tokens, in the model's table.
        width: D.
    """

    folder: Path
    contexts: Int64[ndarray, " N"]
    tokens: Int64[ndarray, " N"]
    following: Int64[ndarray, " N"]
    following_ids: Int64[ndarray, " V"]
    embedding: Float32[ndarray, "V D"]
    width: int

    @property
    def name(self) -> str:
        """A digest of the model, of what it has read and of the settings."""
        return self.folder.name

    def layer(self, number: int) -> Float32[ndarray, "N D"]:
        """The states behind a layer, mapped from disk."""
        return np.memmap(_layer_file(self.folder, number), np.float32, "r", shape=(self.contexts.size, self.width))


def states_of(opened: OpenedModel, data: DataConfig, request: StateRequest, label: str) -> States:
    """The states of a model: those in the cache, or else newly computed ones, which are written there.

    Args:
        opened: the model.
        data: what it reads.
        request: which states.
        label: of the model, for the progress bar.

    Raises:
        InputError: if the data cannot be read, or give too few rows.
        RunError: if the disk is full or the cache cannot be written.
    """
    prompt = opened.prompt
    source = Data(data, prompt, opened.model.config, opened.tokenizer, seed=request.seed)
    content = _content(source, request)
    described = (_VERSION, digest(opened.model), str(opened.model.dtype), content, repr(prompt), asdict(request))
    key = hashlib.sha256(repr(described).encode()).hexdigest()[:32]
    folder = user_cache() / "states" / key
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = _read(folder)
    if found is None:
        with folder_atomically(folder) as partial:
            _write(partial, opened, source, request, label)
        found = _read(folder)
        assert found is not None, "it was written"
    return found


def _layer_file(folder: Path, number: int) -> Path:
    return folder / f"layer-{number}.f32"


def _read(folder: Path) -> States | None:
    if not folder.exists():
        return None
    try:
        if not (folder / SUMS).is_file():
            raise ValueError(f"{folder} has no {SUMS}")
        check_files(folder, hint="remove the folder", error=RunError)
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        with np.load(folder / "rows.npz", allow_pickle=False) as arrays:
            names = ("contexts", "tokens", "following", "following_ids", "embedding")
            found = States(folder=folder, width=int(meta["width"]), **{name: arrays[name] for name in names})
        size = 4 * int(meta["rows"]) * int(meta["width"])
        if all(_layer_file(folder, number).stat().st_size == size for number in meta["layers"]):
            return found
    except (OSError, ValueError, KeyError, EOFError, RunError):
        pass
    say(f"{folder} is damaged and made again")
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _write(folder: Path, opened: OpenedModel, source: Data, request: StateRequest, label: str) -> None:
    model = opened.model
    parts: list[Int64[ndarray, "3 k"]] = []
    with ExitStack() as stack:
        files = {number: stack.enter_context(_layer_file(folder, number).open("wb")) for number in request.layers}
        advance = stack.enter_context(progress(f"{label}: contexts", request.num_contexts))
        for first, batch in _batches(source, request, next(model.parameters()).device):
            caught = states_behind(model, inputs_of(model, batch), request.layers)
            places = _places(model, batch, request)
            row, token = places
            tokens = batch.llm_ids
            parts.append(torch.stack([row + first, tokens[row, token], tokens[row, token + 1]]).cpu().numpy())
            for number, file in files.items():
                file.write(caught[number][row, token].float().cpu().numpy().tobytes())
            advance(first + tokens.shape[0])
    contexts, tokens_of, following_of = np.concatenate(parts, axis=1)
    if contexts.size < 2:
        raise InputError(f"{label}: the contexts give {contexts.size} rows; lower skip={request.skip}")
    ids, following = np.unique(following_of, return_inverse=True)
    weight = model.input_embedding.weight
    embedding = weight[torch.from_numpy(ids).to(weight.device)].detach().float().cpu().numpy()
    arrays = {"contexts": contexts, "tokens": tokens_of, "following": following, "following_ids": ids}
    np.savez(folder / "rows.npz", embedding=embedding, **arrays)
    width = caught[request.layers[0]].shape[-1]
    meta = {"rows": int(contexts.size), "width": int(width), "layers": list(request.layers)}
    (folder / "meta.json").write_text(json.dumps(meta))
    write_sums(folder)


def _content(source: Data, request: StateRequest) -> str:
    """A digest of what a model reads: a file may have been changed since."""
    found = hashlib.sha256()
    for _, batch in _batches(source, request, torch.device("cpu")):
        for tensor in (batch.llm_ids, batch.embedding_ids, batch.labels, batch.llm_lengths, batch.pixel_values):
            found.update(repr(tuple(tensor.shape)).encode())
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _batches(source: Data, request: StateRequest, device: torch.device) -> Iterator[tuple[int, Batch]]:
    """Batches, and the number of the first context of each; the last one may be smaller."""
    stream = source.stream("states", batch_size=1)
    for first in range(0, request.num_contexts, _BATCH):
        size = min(_BATCH, request.num_contexts - first)
        if size != _BATCH or first == 0:
            state = stream.state
            stream = source.stream("states", batch_size=size)
            stream.restore(state)
        yield first, stream.next_batch().to(device)


def _places(model: Any, batch: Batch, request: StateRequest) -> tuple[Tensor, Tensor]:
    """Row and position of every token that gives a state: not skipped, not part of an image, with a next token."""
    tokens, positions = batch.llm_ids, torch.arange(batch.llm_ids.shape[1], device=batch.llm_ids.device)
    is_chosen = (positions >= request.skip) & (positions + 1 < batch.llm_lengths[:, None])
    vision = model.config.vision
    if vision is not None:
        is_chosen &= (tokens != vision.image_token_id) & (tokens.roll(-1, 1) != vision.image_token_id)
    if request.answers_only:
        is_chosen &= batch.labels.roll(-1, 1) != IGNORED
    row, token = is_chosen.nonzero(as_tuple=True)
    return row, token
