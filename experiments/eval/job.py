"""The job of `lab eval`: every sample of every task by every model, recorded one by one, and the table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lab.core.errors import RunError
from lab.core.hydra_schema import in_run_directory, resolved, to_typed
from lab.core.native.fallback import say_missing_loops
from lab.core.operators.loops import loop_names, missing_loops
from lab.core.products import current
from lab.core.resources import refuse_too_many_threads, usable_cores
from lab.core.runs import attempts
from lab.core.runs.attempts import ResumeOn
from lab.core.runs.parquet import write_table
from lab.core.runs.provenance import collect
from lab.core.runs.record import Extension, Run, deciding
from lab.core.streams import say
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.teacher import device_of, digest
from lab.experiments.eval.answering import Respondent, have_one_vocabulary
from lab.experiments.eval.benchmark_task import BenchmarkTask
from lab.experiments.eval.candidates import Candidate, Role, candidates, refuse_unknown_words
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.predictions import names_of, write_predictions
from lab.experiments.eval.results import score_rows
from lab.experiments.eval.rows import ModelRow, Row, TaskRow
from lab.experiments.eval.task import Task
from lab.experiments.eval.tasks import open_task

if TYPE_CHECKING:
    from omegaconf import DictConfig

# what may be another when a run goes on
_EXTENSION = Extension(free=frozenset({"figures"}))
_PACKAGES = ("numpy", "torch", "triton", "mamba-ssm", "causal-conv1d", "fla-core", "pillow", "tokenizers")


def check(config: "DictConfig", folder: Path | None = None) -> str:
    """Refuse what cannot work before anything is written: names of models and tasks, and every row of their files.

    Args:
        config: as composed.
        folder: where the run will write.

    Returns:
        How many models and tasks there are, in words.

    Raises:
        LabError: naming key, or file and row, value and fix.
    """
    settings = to_typed(config, EvalConfig)
    refuse_too_many_threads(settings.threads if folder is not None else None)
    device_of(settings.device)
    found, tasks = _opened(settings)
    return f"{len(found)} models, {len(tasks)} tasks"


def recorded_config(config: "DictConfig") -> dict[str, object]:
    """What config.json of an evaluation holds: the resolved configuration, without keys that affect no number."""
    return deciding(resolved(config))


def run(config: "DictConfig") -> float:
    """Run or continue one evaluation in Hydra's run directory.

    Returns:
        The headline score of the last model on the last task; not a number if it has none.

    Raises:
        LabError: for what the user can fix; what was recorded before is intact.
    """
    return in_run_directory(execute, config)


def execute(config: "DictConfig", directory: Path, overrides: Sequence[str]) -> float:
    """Run or continue a composed configuration in a directory; see `run`."""
    settings = to_typed(config, EvalConfig)
    refuse_too_many_threads(settings.threads)
    torch.set_num_threads(settings.threads or usable_cores())
    recorded = recorded_config(config)
    with current.using(settings.products):
        return _execute(settings, recorded, directory, overrides)


def _execute(settings: EvalConfig, recorded: Mapping[str, Any], directory: Path, overrides: Sequence[str]) -> float:
    device = device_of(settings.device)
    found, tasks = _opened(settings)
    teacher = found[0].open(settings, device, None) if found[0].role is Role.teacher else None
    first = found[0].open(settings, device, None) if teacher is None else teacher
    found = [candidate.sized(settings, device, teacher) for candidate in found]
    products = current.settle(first.model, [first.model.dtype], attempts.recorded(directory, "products"))
    missing = missing_loops(device)
    provenance, patch = collect(
        seeds={"seed": settings.seed},
        # those of operators are recorded with each model
        backends=loop_names(device, missing),
        computed_by=_PACKAGES,
        settings={"device": str(device), "threads": str(torch.get_num_threads())},
        products=products,
    )
    content = {**recorded, "resume_on": settings.resume_on.value}
    with Run[Row](directory, content, overrides, provenance, patch, settings.sinks, _EXTENSION) as record:
        say_missing_loops(missing)
        work = _Work(record, settings, tasks, device, teacher)
        work.start()
        for candidate in found:
            work.do(candidate, first if candidate is found[0] else None)
        return _report(record, settings, found, tasks)


def _opened(settings: EvalConfig) -> tuple[list[Candidate], list[Task]]:
    """Models and tasks, as far as they can be checked without weights."""
    refuse_unknown_words(settings)
    tasks = [open_task(word, settings) for word in settings.tasks]
    found = candidates(settings)
    known = {candidate.label: candidate.find() for candidate in found if candidate.word == candidate.label}
    for task in tasks:
        for label, model in known.items():
            task.refuse(model, label)
    return found, tasks


@dataclass(slots=True)
class _Work:
    """What is done in a run, sample by sample.

    Attributes:
        record: of the run.
        settings: of the run.
        tasks: opened.
        device: of the models.
        teacher: opened; None without one.
    """

    record: Run[Row]
    settings: EvalConfig
    tasks: Sequence[Task]
    device: torch.device
    teacher: OpenedModel | None

    def start(self) -> None:
        """Record the tasks, or refuse to go on with other files than those that were recorded.

        Raises:
            RunError: naming the task.
        """
        is_whole = self.record.damage is None
        # where rows are missing, no model is known to be finished
        self.record.keep(lambda row: is_whole or row["kind"] != "finished")
        if self.record.damage is not None:
            say(f"{self.record.damage}: what is missing is computed again")
        known = {row["task"]: row["digest"] for row in self.record.rows if row["kind"] == "task"}
        for task in self.tasks:
            if known.get(task.word, task.digest) != task.digest:
                raise RunError(f"{task.word} has changed since this run began; put it back, or start a new run")
            if task.word not in known:
                row: TaskRow = {
                    "kind": "task",
                    "task": task.word,
                    "digest": task.digest,
                    "num_samples": task.size(None),
                    "num_left_out": task.num_left_out,
                }
                self.record.log([row])

    def do(self, candidate: Candidate, opened: OpenedModel | None) -> None:
        """All samples of a model that are not recorded yet.

        Args:
            candidate: the model.
            opened: the same, if it is open already.
        """
        from lab.core.runs.console import progress  # noqa: PLC0415

        if self._is_finished(candidate.label):
            return
        opened = candidate.open(self.settings, self.device, self.teacher) if opened is None else opened
        current.settle(opened.model, [opened.model.dtype], attempts.recorded(self.record.directory, "products"))
        self._record_model(candidate, opened)
        respondent = Respondent(candidate.label, opened, candidate.role is Role.image_ablated, candidate.is_windowed)
        # once: vocabularies are compared token by token
        teacher = self._teacher_of(candidate, opened)
        for task in self.tasks:
            earlier = [] if teacher is None else self._rows(task.word, teacher.label)
            done = {row["place"] for row in self._rows(task.word, candidate.label)}
            size = task.size(respondent)
            with progress(f"{candidate.label}: {task.word}", size, completed=len(done)) as advance:
                for place in range(size):
                    if place not in done:
                        self.record.log([task.sample(place, respondent, teacher, earlier)])
                        advance(place + 1)
        self.record.log([{**_model_row(candidate, opened), "kind": "finished"}])
        self.record.flush()

    def _is_finished(self, label: str) -> bool:
        return any(row["kind"] == "finished" and row["model"] == label for row in self.record.rows)

    def _record_model(self, candidate: Candidate, opened: OpenedModel) -> None:
        """Record a model, or refuse to go on with other weights.

        Raises:
            RunError: naming the model.
        """
        row = _model_row(candidate, opened)
        known = [one for one in self.record.rows if one["kind"] == "model" and one["model"] == candidate.label]
        if not known:
            self.record.log([row])
            return
        before = known[0]
        if before["digest"] != row["digest"]:
            raise RunError(
                f"{candidate.label} has other weights than when this run began; put them back, or start a new run"
            )
        if before["backends"] != row["backends"]:
            what = f"{candidate.label} is computed by {row['backends']}, was by {before['backends']}"
            if self.settings.resume_on is ResumeOn.same:
                raise RunError(f"{what}: the last digits may be others; resume_on=different goes on")
            say(what)

    def _teacher_of(self, candidate: Candidate, opened: OpenedModel) -> Respondent | None:
        """The teacher that a model is compared with."""
        if self.teacher is None or candidate.role is Role.teacher or not have_one_vocabulary(opened, self.teacher):
            return None
        assert self.settings.against is not None, "it is open"
        return Respondent(self.settings.against, self.teacher)

    def _rows(self, task: str, label: str) -> list[dict[str, Any]]:
        """The samples of a task that a model has done, in the order of their places."""
        found = [dict(row) for row in _samples(self.record.rows) if row["task"] == task and row["model"] == label]
        return sorted(found, key=lambda row: row["place"])


def _in_order(rows: Sequence[Row], tasks: Sequence[Task], labels: Sequence[str]) -> Iterator[Row]:
    """Rows in an order that does not depend on when they were recorded."""
    words = [task.word for task in tasks]
    for kind, key, names in (("task", "task", words), ("model", "model", labels)):
        found: list[Any] = [row for row in rows if row["kind"] == kind]
        yield from sorted(found, key=lambda row: names.index(row[key]))
    yield from sorted(
        _samples(rows), key=lambda row: (words.index(row["task"]), labels.index(row["model"]), row["place"])
    )


def _samples(rows: Sequence[Row]) -> Iterator[Any]:
    return (row for row in rows if row["kind"] == "answer" or row["kind"] == "choice" or row["kind"] == "piece")


def _model_row(candidate: Candidate, opened: OpenedModel) -> ModelRow:
    layers, backends = len(opened.model.mixer_layers()), opened.model.choose_backends()
    row: ModelRow = {
        "kind": "model",
        "model": candidate.label,
        "role": candidate.role.value,
        "digest": digest(opened.model),
        "backends": ", ".join(f"{name} {value}" for name, value in sorted(backends.items())),
        "num_layers": layers,
        "num_softmax": layers - len(opened.model.converted_layers()),
    }
    return {**row, "windows": list(candidate.windows.values())} if candidate.windows else row


def _report(record: Run[Row], settings: EvalConfig, found: Sequence[Candidate], tasks: Sequence[Task]) -> float:
    """Table, predictions and verdict, rebuilt from the recorded rows, so that a resumed run ends like any other."""
    from lab.core.runs.console import print_directory, print_summary  # noqa: PLC0415
    from lab.core.runs.figures import draw_figures  # noqa: PLC0415
    from lab.experiments.eval.figures import drawn  # noqa: PLC0415
    from lab.experiments.eval.report import headline, summary_table, verdict  # noqa: PLC0415

    labels = [candidate.label for candidate in found]
    scores = score_rows(record.rows, tasks, labels, settings)
    table: list[Row] = [*_in_order(record.rows, tasks, labels), *scores]
    write_table(record.folder() / "table.parquet", table)
    asked = [task for task in tasks if isinstance(task, BenchmarkTask)]
    for task, data_set in zip(asked, names_of([task.file.name for task in asked]), strict=True):
        for label, name in zip(labels, names_of(labels), strict=True):
            mine = (row for row in _samples(record.rows) if row["task"] == task.word and row["model"] == label)
            said = {row["index"]: row["prediction"] for row in mine}
            write_predictions(record.folder("predictions"), name, data_set, task.file, said)
    paths = draw_figures(record.folder("figures"), settings.figures, lambda name: drawn(name, scores))
    header, body = summary_table(table)
    sentences = verdict(table, settings)
    record.save_summary(header, body, sentences)
    record.set_headline(settings.title, headline(table))
    print_summary(settings.title, header, body, sentences, paths)
    print_directory(record.directory)
    quoted = [row["value"] for row in scores if row["kind"] == "score" and row["is_headline"]]
    return quoted[-1] if quoted else float("nan")
