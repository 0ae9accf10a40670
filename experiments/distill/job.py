"""The job of `lab distill`: train, evaluate on held-out data, and report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lab.core.errors import ConfigError
from lab.core.hydra_schema import in_run_directory, resolved, to_typed
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import LanguageModel
from lab.core.native.build import compiler_version
from lab.core.native.fallback import say_missing_loops
from lab.core.operators.backends import Backend, resolve
from lab.core.operators.loops import loop_names, missing_loops
from lab.core.parallel.config import Frozen, Strategy, refuse_unasked, refuse_uneven
from lab.core.parallel.launched import launched
from lab.core.parallel.processes import layout, own_device
from lab.core.parallel.ranks import Ranks
from lab.core.products import current
from lab.core.resources import refuse_too_many_threads, usable_cores
from lab.core.runs import attempts
from lab.core.runs.follower import Follower
from lab.core.runs.parquet import write_table
from lab.core.runs.provenance import collect
from lab.core.runs.record import Run, deciding
from lab.core.tokenizer import Tokenizer
from lab.experiments.distill.config import TEACHER, DistillConfig
from lab.experiments.distill.data import Data, tokenizer_of
from lab.experiments.distill.data_sources import data_sources
from lab.experiments.distill.estimate import (
    long_samples,
    needs,
    refuse_steps_that_do_not_fit,
    refuse_weights_that_do_not_fit,
)
from lab.experiments.distill.load import student_of
from lab.experiments.distill.pipeline import work_on_students, work_on_teacher
from lab.experiments.distill.process_memory import Spread
from lab.experiments.distill.rows import Row
from lab.experiments.distill.run_context import RunContext
from lab.experiments.distill.stage_graph import StageNode
from lab.experiments.distill.stage_notes import note_expected, note_starts
from lab.experiments.distill.starts import find_starts, waiting_checkpoints
from lab.experiments.distill.teacher import device_of, digest, first_device, new_teacher, open_teacher
from lab.experiments.distill.unfit_students import refuse_unfit

if TYPE_CHECKING:
    from omegaconf import DictConfig

# on their versions the last digits depend
_PACKAGES = ("numpy", "torch", "triton", "mamba-ssm", "causal-conv1d", "fla-core", "pillow", "tokenizers")


def check(config: "DictConfig", folder: Path | None = None) -> str:
    """Refuse invalid runs before anything is written: bad keys, damaged checkpoints, no run to start from, no room.

    Args:
        config: as composed.
        folder: where the run will write; None if another machine will run it, which may have more room.

    Returns:
        What the run will need, in words.

    Raises:
        LabError: naming key or file, value and fix.
    """
    settings = to_typed(config, DistillConfig)
    settings.data.refuse_missing()
    # all before a teacher is read
    starts = find_starts(settings, recorded_config(config), folder)
    waiting = waiting_checkpoints(settings, starts, folder)
    context = open_context(settings, folder)
    # of a teacher without numbers nothing can be compared yet
    if context.fill is None:
        _refuse_sources(context, waiting)
    return needs(settings, context.teacher.config, Spread.of_launched(settings.parallel, launched()))


def _refuse_sources(context: RunContext, waiting: Sequence[tuple[StageNode, Path]]) -> None:
    """Refuse checkpoints to start from whose students are not those of this run's stage."""
    teacher_digest = digest(context.teacher) if waiting else ""
    for node, path in waiting:
        student_of(
            node,
            path,
            teacher=context.teacher,
            teacher_digest=teacher_digest,
            config=context.config,
            layout=context.layout,
        )


def run(config: "DictConfig") -> float:
    """Run or continue one distillation in Hydra's run directory.

    Returns:
        The last student's divergence from the teacher, in nats per token; for stage=teacher, the error rate. A sweeper
        may minimise it.

    Raises:
        LabError: for what the user can fix; what was recorded before is intact.
    """
    return in_run_directory(execute, config)


def execute(config: "DictConfig", directory: Path, overrides: Sequence[str]) -> float:
    """Run or continue a composed configuration in a directory; see `run`."""
    settings = to_typed(config, DistillConfig)
    refuse_too_many_threads(settings.threads)
    torch.set_num_threads(settings.threads or _own_cores())
    with current.using(settings.products):
        return _execute(settings, recorded_config(config), directory, overrides)


def _execute(
    settings: DistillConfig, recorded: Mapping[str, object], directory: Path, overrides: Sequence[str]
) -> float:
    context = open_context(settings, directory)
    with layout(settings.parallel, context.device) as over_processes:
        return _work(settings, recorded, replace(context, layout=over_processes), directory, overrides)


def _work(
    settings: DistillConfig,
    recorded: Mapping[str, object],
    context: RunContext,
    directory: Path,
    overrides: Sequence[str],
) -> float:
    """Everything behind the checks; of several processes, the first one records and reports."""
    ranks = context.layout.ranks
    starts = ranks.of_first(partial(find_starts, settings, recorded, directory))
    if settings.stage != TEACHER:
        context.layout.place_teacher(context.teacher, context.fill)
        if context.fill is not None:
            _refuse_sources(context, ranks.of_first(partial(waiting_checkpoints, settings, starts, directory)))
    # all compute products alike: the others choose what the first has measured
    settle = partial(current.settle, context.teacher, _product_dtypes(settings))
    products = ranks.of_first(lambda: settle(attempts.recorded(directory, "products")))
    if not ranks.is_first:
        settle(products)
    missing = _missing_loops(settings, context.device)
    provenance, patch = collect(
        seeds={"seed": settings.seed},
        backends=_implementations(settings, context.device, missing),
        computed_by=_PACKAGES,
        settings={"device": _device_name(context.device), "threads": str(torch.get_num_threads())},
        products=products,
        compiler=compiler_version() if context.device.type == "cpu" and not missing else None,
        processes=_processes(settings, ranks),
        data=settings.data.contents() if ranks.is_first else None,
    )
    content = {**recorded, "resume_on": settings.resume_on.value}
    record: Run[Row] = Follower[Row](directory)
    if ranks.is_first:
        record = Run[Row](directory, content, overrides, provenance, patch, settings.sinks)
    with record:
        if ranks.is_first:
            say_missing_loops(missing)
            note_expected(record.directory, list(overrides))
            note_starts(record.directory, starts)
        if settings.stage == TEACHER:
            work_on_teacher(record, context)
        else:
            work_on_students(record, context, starts)
        # behind this, none waits for the others
        ranks.gathered(None)
        return _report(record, settings) if ranks.is_first else math.nan


def _own_cores() -> int:
    """The cores of this process: its share, if several were started on this machine."""
    here = launched()
    return max(1, usable_cores() // (1 if here is None else here.local_size))


def _processes(settings: DistillConfig, ranks: Ranks) -> dict[str, object] | None:
    """How many processes work on the run, to be recorded; None for one."""
    if ranks.size == 1:
        return None
    parallel = settings.parallel
    return {"number": ranks.size, "strategy": parallel.strategy.value, "frozen": parallel.frozen.value}


def recorded_config(config: "DictConfig") -> dict[str, object]:
    """The configuration as recorded, without keys such as the device, which may differ between runs that continue."""
    return deciding(resolved(config))


def open_context(config: DistillConfig, folder: Path | None) -> RunContext:
    """Teacher and data of a run, loaded and validated; `folder` as for `check`."""
    if folder is not None:
        refuse_too_many_threads(config.threads)
    _refuse_processes(config)
    device = own_device(device_of(config.device))
    current.refuse(config.products, device, _product_dtypes(config))
    load: Callable[[], LanguageModel]
    fill = None
    if config.stage == TEACHER:
        task, given = config.data.source.task, config.teacher.architecture
        if given is None or given.vision is None or task is None:
            tasks = [kind for kind, source in data_sources().items() if source.task is not None]
            raise ConfigError(
                "stage=teacher trains a vision-language model on a task with its own vocabulary: choose "
                f"data={' or '.join(tasks)}, and a teacher whose architecture is given, such as teacher=hovle_tiny"
            )
        _refuse_weights(config, given, folder, device)
        words = task.tokenizer(config.prompt.system)
        tokenizer: Tokenizer = words
        architecture: ModelConfig = given
        load = partial(new_teacher, given, words, damped=config.teacher.damped, device=device, seed=config.seed)
    else:
        is_cut = config.parallel.frozen is Frozen.sharded and launched() is not None
        first = first_device(config.teacher, device, is_cut=is_cut)
        opened = open_teacher(config.teacher, device=first, seed=config.seed)
        architecture = opened.architecture
        _refuse_weights(config, architecture, folder, device)
        refuse_unfit(config, architecture)
        _backends(config, device)
        tokenizer = tokenizer_of(opened.folder, config.prompt, config.data)
        load = partial(getattr, opened, "model")
        fill = opened.fill if first.type == "meta" else None
    data = Data(config.data, config.prompt, architecture, tokenizer, seed=config.seed, is_packed=config.packing)
    # detect missing, broken or useless files before anything is written
    data.refuse_broken()
    list(data.held_out(1, batch_size=1))
    data.say_few_held_out(config.evaluation.num_batches * config.evaluation.batch_size)
    trained, evaluated = long_samples(config, data)
    # weights last: reading them takes longer than all of this
    teacher = load()
    if folder is not None and device.type == "cpu":
        spread = Spread.of_launched(config.parallel, launched())
        refuse_steps_that_do_not_fit(config, architecture, trained, evaluated, spread=spread)
    return RunContext(config, teacher, data, tokenizer, device, fill)


def _refuse_processes(config: DistillConfig) -> None:
    """Refuse several processes that were not asked for, or cannot share the work."""
    here = launched()
    refuse_unasked(config.parallel, here)
    processes = 1 if here is None else here.size
    if config.stage == TEACHER:
        if config.parallel.strategy is Strategy.fsdp:
            raise ConfigError("parallel.strategy=fsdp: stage=teacher trains a small model, whole; choose ddp")
        refuse_uneven("stage_teacher", config.stage_teacher.accumulation, processes)
    for each in config.of_variants().values():
        for stage in each.stage_numbers:
            refuse_uneven(f"stage_{stage}", each.recipe(stage).accumulation, processes)


def _refuse_weights(
    config: DistillConfig, architecture: ModelConfig, folder: Path | None, device: torch.device
) -> None:
    if folder is not None:
        free = None if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
        spread = Spread.of_launched(config.parallel, launched())
        refuse_weights_that_do_not_fit(config, architecture, folder, free=free, spread=spread)


def _backends(config: DistillConfig, device: torch.device) -> dict[str, Backend]:
    """The backend of each operator of the students.

    Raises:
        BackendError: if one requested by name cannot run.
    """
    kernels, dtype = config.student.mixer.kernels, config.teacher.precision.dtype
    return {field.name: resolve(field.name, getattr(kernels, field.name), device, dtype) for field in fields(kernels)}


def _missing_loops(config: DistillConfig, device: torch.device) -> dict[str, str]:
    """Operators whose compiled loops are missing on a CPU, each with the reason."""
    backends = _backends(config, device) if config.stage != TEACHER else {}
    reasons = {name: backend.why_not_compiled(device) for name, backend in backends.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None} | missing_loops(device)


def _implementations(config: DistillConfig, device: torch.device, missing: Mapping[str, str]) -> dict[str, str]:
    """What computes each operator, to be recorded."""
    backends = _backends(config, device)
    names = {
        name: f"{backend.name}, in torch" if name in missing else backend.name for name, backend in backends.items()
    }
    return {**names, **loop_names(device, missing)}


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def _product_dtypes(config: DistillConfig) -> list[torch.dtype]:
    """The dtypes of the products of teacher and students."""
    if config.stage == TEACHER:
        recipes, dtype = [config.stage_teacher], torch.float32
    else:
        each = config.of_variants().values()
        recipes = [student.recipe(stage) for student in each for stage in student.stage_numbers]
        dtype = config.teacher.precision.dtype
    autocast = [torch.bfloat16] if any(recipe.autocast for recipe in recipes) else []
    return list(dict.fromkeys([dtype, *autocast]))


def _report(record: Run[Row], settings: DistillConfig) -> float:
    """Table, figures and verdict, rebuilt from the recorded rows, so that a resumed run ends like any other."""
    # matplotlib takes seconds to import: defer it until there is something to draw
    from lab.core.runs.console import print_directory, print_summary  # noqa: PLC0415
    from lab.core.runs.figures import draw_figures  # noqa: PLC0415
    from lab.experiments.distill.figures import drawn  # noqa: PLC0415
    from lab.experiments.distill.report import headline, summary_table, verdict  # noqa: PLC0415
    from lab.experiments.distill.table import table_rows  # noqa: PLC0415

    table = table_rows(record.rows, settings)
    write_table(record.folder() / "table.parquet", table)
    paths = draw_figures(record.folder("figures"), settings.figures, lambda name: drawn(name, table))
    header, body = summary_table(table)
    sentences = verdict(table)
    record.save_summary(header, body, sentences)
    record.set_headline(settings.title, headline(table))
    print_summary(settings.title, header, body, sentences, paths)
    print_directory(record.directory)
    results = [row for row in table if row["kind"] == "result"]
    last = results[-1]
    return 1 - last["accuracy"] if settings.stage == TEACHER else last["kl_per_answer_token"]
