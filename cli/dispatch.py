"""Run a Hydra job from the command line. Bad input ends with one line and exit code 2 before anything is written."""

import contextlib
import errno
import importlib
import io
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.cli.cluster.in_a_job import own_directories, refuse_several_tasks
from lab.cli.cluster.several import SILENT_LOGS, as_one_of_several, end_others, end_with, refuse_sweep
from lab.cli.cluster.slurm_queue import jobs_of_a_sweep
from lab.cli.hydra_errors import WithoutHydrasLine, hydra_message
from lab.cli.override_errors import explain_failure, refuse_taken_as_bools, unreachable_key
from lab.cli.plan import planned
from lab.cli.resume import refuse_links, resumed
from lab.core.errors import ConfigError, LabError
from lab.core.parallel.end import EndedElsewhere
from lab.core.runs.atomic_files import WRITING_ERRORS, as_run_error
from lab.core.runs.early_signals import INTERRUPTED, send_held
from lab.core.runs.find import outputs_root
from lab.core.runs.signals import EndSignals
from lab.experiments.spec import Experiment

# points of a sweep that are checked before the first one starts; composing one takes about 0.1 s
_MOST_CHECKED = 200

# Hydra's flags that print a configuration, and run nothing
_COMPOSING = ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--run", "-r")

# a run prints its directory, and errors
_QUIET = "--quiet"
_QUIET_LOGS = ("hydra.job_logging.root.level=WARNING", "hydra.hydra_logging.root.level=WARNING")

# what the loader of shared libraries says
_NO_ROOM_FOR_LIBRARY = ("failed to map segment from shared object", "cannot allocate memory", "Cannot allocate memory")
# of pipes between processes of lab
_BETWEEN_PROCESSES = (errno.EPIPE, errno.ECONNRESET)


def run_hydra_job(experiment: Experiment, arguments: Sequence[str]) -> None:
    """Run `experiment` under Hydra with `arguments` as its command line: overrides, `resume=RUN`, and Hydra's flags.

    Exits with code 2 and one line for mistakes of the user, with 130 when interrupted.
    """
    # warnings of the checks, such as samples that are skipped, go nowhere: a refusal is one line
    logging.getLogger("lab").addHandler(logging.NullHandler())
    with (
        one_line_errors("interrupted; what is recorded is kept, and resume=RUN goes on"),
        as_one_of_several(experiment) as here,
    ):
        _refuse_no_working_folder()
        _load(experiment.register)()
        is_quiet = _QUIET in arguments
        if planned(experiment, arguments, lambda words: _composed(experiment.config, words)):
            return
        overrides, flags = _parsed(experiment, [word for word in arguments if word != _QUIET])
        _refuse_odd_places()
        refuse_sweep(here, is_multirun=flags == ["--multirun"])
        if not flags or flags == ["--multirun"]:
            _check_every_point(experiment, overrides, is_multirun=bool(flags))
        elif flags[0] in _COMPOSING:
            from hydra import initialize_config_module

            with initialize_config_module("lab.conf", version_base="1.3"):
                _composed(experiment.config, overrides)
            if is_quiet:
                raise ConfigError(f"{_QUIET} with {flags[0]}: only a run has something to leave out; leave it out")
        if not flags or flags[0] not in _COMPOSING:
            overrides += own_directories(experiment, overrides)
            overrides += _QUIET_LOGS if is_quiet else ()
            overrides += SILENT_LOGS if here is not None and here.rank > 0 else ()
        import hydra

        from lab.core.runs.console import quiet

        # the undecorated function pickles by name, which is what launchers send to another machine
        entry = hydra.main(version_base="1.3", config_path="pkg://lab.conf", config_name=experiment.config)(
            _load(experiment.job)
        )
        words = [*overrides, *flags]
        said = quiet() if is_quiet else contextlib.nullcontext()
        with _command_line([f"lab {experiment.command}", *words]), jobs_of_a_sweep(words), said:
            entry()


def check_command(experiment: Experiment, arguments: Sequence[str]) -> None:
    """Refuse a command that `run_hydra_job` would refuse.

    Raises:
        LabError: for what the user can fix.
    """
    _load(experiment.register)()
    if _QUIET in arguments:
        raise ConfigError(f"{_QUIET}: a job runs a command as it stands; leave the flag out")
    overrides, flags = _parsed(experiment, arguments)
    _refuse_odd_places()
    if flags not in ([], ["--multirun"]):
        raise ConfigError(f"{flags[0]}: a job runs a command as it stands; leave the flag out")
    _check_every_point(experiment, overrides, is_multirun=bool(flags))


def _parsed(experiment: Experiment, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, those of a run that is resumed included, and Hydra's flags."""
    words = arguments if experiment.words is None else experiment.words(arguments)
    return _split(resumed(words, study=experiment))


def _refuse_no_working_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError("the working folder was deleted; go to another one") from error


def _refuse_odd_places() -> None:
    """An empty name would mean the working folder, or the root; and Hydra would expand a part of a name."""
    for name in ("LAB_OUTPUTS", "LAB_RUN_DIR"):
        if not os.environ.get(name, name).strip():
            raise ConfigError(f"{name} is empty; give it a folder, or unset it")
        if "${" in os.environ.get(name, ""):
            raise ConfigError(f"{name}={os.environ[name]}: a folder with ${{ in its name cannot hold runs; rename it")


@contextlib.contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn mistakes of the user into one line on stderr and exit code 2; other exceptions propagate.

    Ctrl-C, however often, ends with exit code 130 and the line `interrupted`.
    """
    with EndSignals(is_process=True):
        try:
            send_held()
            yield
        except KeyboardInterrupt:
            end_with(interrupted, INTERRUPTED)
        except Exception as error:
            message = _message(error)
            if message is None:
                end_others()
                raise
            end_with(message, 2, is_echo=isinstance(error, EndedElsewhere))


def _message(error: Exception) -> str | None:
    """The line for an error that the user can fix, None for any other."""
    if isinstance(error, LabError):
        return str(error)
    if isinstance(error, MemoryError):
        reason = str(error) or "an allocation failed"
        return f"out of memory: {reason}; lower workers, sizes or batch_size, and resume=RUN goes on"
    if isinstance(error, ImportError) and any(words in str(error) for words in _NO_ROOM_FOR_LIBRARY):
        return f"out of memory while libraries were loaded ({error}); raise ulimit -v, or free some"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no further thread can be started here; lower workers and threads, or raise ulimit -u"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return "out of memory: torch asked for more than there is; lower sizes or batch_size, and resume=RUN goes on"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:80]}… is longer than names of files can be; give a shorter one"
    # before OSError: Hydra's error for an option that does not exist is one
    message = hydra_message(error)
    if message is not None or not isinstance(error, OSError):
        return message
    return _system_message(error)


def _system_message(error: OSError) -> str | None:
    """The line for an error of the system: a place that is gone, full or closed; None for one without a place."""
    is_output = str(error.filename).startswith(str(outputs_root()))
    if error.errno in WRITING_ERRORS or error.filename is None or is_output:
        place = Path(error.filename or "the output folder")
        return None if error.errno is None or error.errno in _BETWEEN_PROCESSES else str(as_run_error(error, place))
    return f"{error.filename}: {error.strerror}"


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and Hydra's flags; argparse lets flags stand between overrides only if they are told apart first."""
    from hydra._internal.utils import get_args_parser

    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            parsed, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    except SystemExit as error:
        raise ConfigError(messages.getvalue().rstrip().rpartition("error: ")[2]) from error
    for word in unknown:
        if word.startswith("-"):
            raise ConfigError(f"{word}: there is no such flag; --help lists the keys and the flags")
    overrides = [*parsed.overrides, *unknown]
    rest = list(overrides)
    flags = []
    for word in arguments:
        if rest and word == rest[0]:
            rest.pop(0)
        else:
            flags.append("--multirun" if word == "-m" else word)
    return overrides, flags


def _check_every_point(experiment: Experiment, overrides: Sequence[str], *, is_multirun: bool) -> None:
    """Compose and check each point of a sweep, so that a bad one is refused before the first has started."""
    from hydra import initialize_config_module

    check = _load(experiment.check)
    with initialize_config_module("lab.conf", version_base="1.3"):
        fixed, axes = _sweep_axes(overrides) if is_multirun else (list(overrides), [])
        first = _composed(experiment.config, [*fixed, *(axis[0] for axis in axes)], return_hydra_config=True)
        is_multirun = is_multirun or str(first.hydra.mode).endswith("MULTIRUN")
        _refuse_no_directory(first, is_multirun=is_multirun)
        if is_multirun:
            refuse_several_tasks(first.hydra.launcher)
            params = [f"{key}={value}" for key, value in (first.hydra.sweeper.get("params") or {}).items()]
            more_fixed, more_axes = _sweep_axes(params)
            fixed, axes = fixed + more_fixed, axes + more_axes
        folder = _output_folder(first.hydra, is_multirun=is_multirun)
        if folder is not None:
            refuse_links(folder)
        for point in itertools.islice(itertools.product(*axes), _MOST_CHECKED):
            words = [*fixed, *point]
            try:
                # one point is composed already
                check(_composed(experiment.config, words) if axes else _without_hydra(first), folder)
            except ConfigError as error:
                is_added = any(word.startswith("+") for word in words)
                message = unreachable_key(experiment.config, words) if is_added else None
                raise ConfigError(message or str(error)) from error


def _refuse_no_directory(composed: Any, *, is_multirun: bool) -> None:
    """An empty name would mean the working folder, and runs in it would be one."""
    key = "sweep" if is_multirun else "run"
    directory = composed.hydra[key].dir
    if directory is None or not str(directory).strip():
        raise ConfigError(f"hydra.{key}.dir={directory!r} is empty; give it a folder, or leave it out")


def _output_folder(hydra: Any, *, is_multirun: bool) -> Path | None:
    """Where a run will write; None if its launcher hands it to another machine, which has other limits."""
    launcher = str(hydra.launcher.get("_target_", ""))
    if is_multirun and "submitit" in launcher and "Local" not in launcher:
        return None
    folder = str(hydra.sweep.dir if is_multirun else hydra.run.dir)
    if not folder:
        raise ConfigError(f"hydra.{'sweep' if is_multirun else 'run'}.dir is empty; give the folder of a run")
    return Path(folder)


def _without_hydra(composed: Any) -> Any:
    """The configuration as a job sees it, of one that was composed with Hydra's own."""
    from omegaconf import open_dict

    with open_dict(composed):
        del composed["hydra"]
    return composed


def _composed(config: str, overrides: Sequence[str], **options: bool) -> Any:
    """The configuration that overrides compose.

    Raises:
        ConfigError: if they do not. Errors of Hydra and OmegaConf for a key that cannot be reached have no common
            class, and `compose` runs no code of ours.
    """
    from hydra import compose

    try:
        composed = compose(config, overrides=list(overrides), **options)
    except Exception as error:
        raise ConfigError(explain_failure(config, overrides, error)) from error
    refuse_taken_as_bools(overrides, composed)
    return composed


def _sweep_axes(overrides: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Overrides of one value, and for each that sweeps its values as overrides."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    # a glob needs the names of the options
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    fixed, axes = [], []
    for override in parser.parse_overrides(list(overrides)):
        if override.is_sweep_override():
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            fixed.append(override.input_line or "")
    return fixed, axes


@contextlib.contextmanager
def _command_line(words: Sequence[str]) -> Iterator[None]:
    """Give hydra.main the command line that it reads, and keep it from printing errors in its own way."""
    old, sys.argv = sys.argv, list(words)
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with contextlib.redirect_stderr(WithoutHydrasLine(sys.stderr)):
            yield
    finally:
        sys.argv = old


def _load(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded
