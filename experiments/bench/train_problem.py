"""The problem of `lab bench train`: the same steps bare, and in the loop of `lab distill` with all that is around."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from lab.core.data.batch import Batch
from lab.core.data.sample import Sample
from lab.core.data.stream import Batches, Source, Stream
from lab.core.mixers.base import Mixer
from lab.core.parallel.layout import Layout
from lab.core.runs.provenance import collect
from lab.core.runs.random_streams import Seeds
from lab.core.runs.record import Run
from lab.core.train.loop import TrainedStep, Validation, fit
from lab.core.train.optim import adamw, clip_gradients
from lab.core.train.state import Resumable, TrainingState
from lab.experiments.bench.train_setting import Opened, TrainSetting, open_setting
from lab.experiments.distill.config import Recipe
from lab.experiments.distill.loader import Loader, loaded
from lab.experiments.distill.loss_mask import LossMask
from lab.experiments.distill.objectives import BatchSource, Objective, autocast_of, objective_of
from lab.experiments.distill.recorded_training import shared
from lab.experiments.distill.rows import Row
from lab.experiments.distill.student import StudentConfig, build_student, own_tensors, set_trainable, trainable_names

_CPU = torch.device("cpu")
_UNIT = "bench"


@dataclass(frozen=True, slots=True)
class Repeated:
    """The first samples of a source over and over, so that every call of a candidate reads the same batches."""

    source: Source
    num_samples: int

    def __getitem__(self, index: int) -> Sample:
        return self.source[index % self.num_samples]


class _Waiting:
    """Batches, and the seconds that were spent waiting for them."""

    def __init__(self, batches: Batches) -> None:
        self._batches, self.seconds = batches, 0.0

    @property
    def state(self) -> dict[str, int]:
        return self._batches.state

    def restore(self, state: dict[str, int]) -> None:
        self._batches.restore(state)

    def next_batch(self) -> Batch:
        start = time.perf_counter()
        batch = self._batches.next_batch()
        self.seconds += time.perf_counter() - start
        return batch


class _WithoutCheckpoints(TrainingState):
    """A state that is not saved: a loop of a few steps would save as often as one of a hundred."""

    def save(self, folder: Path) -> None:
        """Nothing."""


class Training:
    """A stage of a student with random weights; every call begins at the same weights and the same batch.

    A context: the process that makes batches, and runs and their trackers, stay from call to call, since the seconds
    that they take to start are those of a whole training.

    Attributes:
        waits: for each call of the loop, the share of its time that its steps waited for batches.
        recordings: for each call that is recorded without a tracker, the share of its time that recording took.
        batch: the first.
    """

    def __init__(
        self,
        setting: TrainSetting,
        stage: int,
        folder: Path,
        opened: Opened | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Build student and batches.

        Args:
            setting: sizes.
            stage: 1, 2 or 3.
            folder: below which runs are recorded.
            opened: what is trained on what; None for what the setting says.
            layout: over the processes that share the loop; None for one process.
        """
        self.setting, self.stage, self._folder = setting, stage, folder
        self._layout = laid_out = Layout() if layout is None else layout
        self.teacher, source, most_tokens = open_setting(setting) if opened is None else opened
        num_batches = setting.steps * setting.accumulation
        repeated = Repeated(source, num_batches * setting.batch_size)
        self._stream = partial(
            Stream,
            repeated,
            batch_size=setting.batch_size,
            max_length=most_tokens,
            seed=0,
            is_packed=setting.is_packed,
        )

        def place(mixer: Mixer) -> None:
            laid_out.place(mixer, autocast=False)

        self.student = build_student(self.teacher, StudentConfig(), seeds=Seeds(0), finish=place)
        names = trainable_names(self.student, stage, train_decay=False)
        self._trained = set_trainable(self.student, names)
        self._start = {name: tensor.detach().clone() for name, tensor in self._trained.items()}
        self._recipe = Recipe(
            steps=setting.steps,
            batch_size=setting.batch_size,
            accumulation=setting.accumulation,
            evaluate_every=setting.steps,
            loss_mask=LossMask(setting.loss_mask),
        )
        self._optimizer = adamw(
            self._trained,
            learning_rate=self._recipe.learning_rate,
            weight_decay=self._recipe.weight_decay,
            betas=(self._recipe.beta1, self._recipe.beta2),
        )
        stream = self._stream()
        self._batches = [stream.next_batch() for _ in range(num_batches)]
        self.batch = self._batches[0]
        self.waits: list[float] = []
        self.recordings: list[float] = []
        self._stack = ExitStack()
        self._feeds: dict[tuple[Loader, int], Batches] = {}
        self._records: dict[tuple[str, ...], Run[Row]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    @property
    def num_tokens(self) -> int:
        """Tokens of the language model that a call reads, padding not counted."""
        return sum(int(batch.llm_lengths.sum()) for batch in self._batches)

    @property
    def wasted(self) -> float:
        """The share of the positions of a call's batches that are padding."""
        return 1 - self.num_tokens / sum(batch.llm_ids.numel() for batch in self._batches)

    def bare(self) -> list[float]:
        """The losses of steps with batches that are there already: objective, clipping, AdamW and nothing else."""
        state, objective = self._begin(self._stream()), self.objective()
        losses = []
        several = self.setting.accumulation
        for first in range(0, len(self._batches), several):
            state.optimizer.zero_grad(set_to_none=True)
            parts = [objective(each, scale=1 / several)["loss"] for each in self._batches[first : first + several]]
            losses.append(sum(parts) / several)
            # a norm is rounded by the order of its parts: as in the loop
            trained = [each for group in state.optimizer.param_groups for each in group["params"]]
            clip_gradients(trained, self._recipe.gradient_clip)
            state.optimizer.step()
        return losses

    def loop(self, loader: Loader, *, is_recorded: bool, sinks: Sequence[str] = (), processes: int = 1) -> list[float]:
        """The losses of the same steps in the loop of `lab distill`.

        Args:
            loader: where batches are made.
            processes: how many make samples, if not this one.
            is_recorded: whether each step is recorded in a run.
            sinks: where its rows go besides.
        """
        record = self._record(tuple(sinks)) if is_recorded else None
        losses = []
        recording_s = 0.0

        def log(done: TrainedStep | Validation) -> None:
            nonlocal recording_s
            if done["kind"] == "train":
                losses.append(done["metrics"]["loss"])
                if record is not None:
                    start = time.perf_counter()
                    record.log([_row_of(done)])
                    recording_s += time.perf_counter() - start

        waiting = _Waiting(self._feed(loader, processes))
        feed = BatchSource(self.objective(), waiting, (), _CPU)
        state, recipe = self._begin(waiting, is_saved=False), replace(self._recipe, warmup=0.0, decay=0.0)
        begun = time.perf_counter()
        name = f"stage_{self.stage}"
        fit(state, feed.step, recipe, name=name, folder=self._folder, validate=lambda: 0.0, log=log)
        seconds = time.perf_counter() - begun
        self.waits.append(waiting.seconds / seconds)
        if is_recorded and not sinks:
            self.recordings.append(recording_s / seconds)
        return losses

    def _feed(self, loader: Loader, processes: int) -> Batches:
        """The batches of all calls with one loader."""
        key = loader, processes
        if key not in self._feeds:
            setting, ranks = self.setting, self._layout.ranks
            number = setting.steps * ranks.share(setting.accumulation) * setting.batch_size
            made = loaded(
                shared(ranks, self._stream(), self._recipe),
                loader,
                num_samples=number,
                device=_CPU,
                processes=processes,
            )
            self._feeds[key] = self._stack.enter_context(made)
        return self._feeds[key]

    def _record(self, sinks: tuple[str, ...]) -> Run[Row]:
        """The run of all calls with the same sinks."""
        if sinks not in self._records:
            provenance, _ = collect(seeds={}, backends={}, computed_by=(), settings={})
            directory = self._folder / f"run-{len(self._records)}"
            self._records[sinks] = self._stack.enter_context(Run[Row](directory, {}, [], provenance, b"", sinks))
        return self._records[sinks]

    def seconds_of_a_checkpoint(self) -> float:
        """The time that writing one takes."""
        state = self._begin(self._stream())
        # with moments, as in the middle of a training
        self.objective()(self.batch, scale=1.0)
        state.optimizer.step()
        start = time.perf_counter()
        state.save(self._folder / "checkpoints")
        return time.perf_counter() - start

    def objective(self) -> Objective:
        """The stage's loss, which accumulates its gradient."""
        autocast = autocast_of(None, _CPU)
        return objective_of(
            self.stage, teacher=self.teacher, student=self.student, recipe=self._recipe, autocast=autocast
        )

    def _begin(self, data: Resumable, *, is_saved: bool = True) -> TrainingState:
        with torch.no_grad():
            for name, tensor in self._trained.items():
                tensor.copy_(self._start[name])
                tensor.grad = None
            # in memory that was there before, as from the second step of a training on
            for moments in self._optimizer.state.values():
                for tensor in moments.values():
                    tensor.zero_()
        made = TrainingState if is_saved else _WithoutCheckpoints
        tensors: Mapping[str, Tensor] = own_tensors(self.student)
        return made(tensors=tensors, optimizer=self._optimizer, data=data, layout=self._layout)


def _row_of(done: TrainedStep) -> Row:
    """As the job records a step."""
    metrics = done["metrics"]
    return {
        "unit": _UNIT,
        "kind": "train",
        "step": done["step"],
        "loss": metrics["loss"],
        "tokens": metrics["tokens"],
        "learning_rate": done["learning_rate"],
        "gradient_norm": done["gradient_norm"],
        "seconds": done["seconds"],
    }
