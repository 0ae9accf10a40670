"""Run a Hydra job from the command line. Bad input ends with one line and exit code 2 before anything is written."""

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import cast

from lab.cli.cluster.in_a_job import own_directories
from lab.cli.cluster.several import as_one_of_several, end_others, end_with, refuse_sweep, silent_logs
from lab.cli.cluster.slurm_queue import jobs_of_a_sweep
from lab.cli.hydra_errors import WithoutHydrasLine, hydra_message, refuse_bad_levels, refuse_flags_together
from lab.cli.plan import planned
from lab.cli.resume import resumed
from lab.cli.sweeps.composing import composed
from lab.cli.sweeps.dry_run import print_points
from lab.cli.sweeps.launching import launcher_behind, refuse_begun, refuse_flags, skipping
from lab.cli.sweeps.leaving import leaving, refuse_waiting
from lab.cli.sweeps.points import checked_command
from lab.cli.sweeps.search import in_own_folders, refuse_missing_plugin, search_overrides
from lab.core.errors import ConfigError, LabError
from lab.core.parallel.end import EndedElsewhere
from lab.core.runs.atomic_files import WRITING_ERRORS, as_run_error
from lab.core.runs.console import print_directory, quiet, seconds_between_lines
from lab.core.runs.early_signals import INTERRUPTED, send_held
from lab.core.runs.find import outputs_root
from lab.core.runs.signals import EndSignals
from lab.experiments.spec import Experiment, function_of

# Hydra's flags that print a configuration, and run nothing
_COMPOSING = ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--run", "-r")

# a run prints its directory, and errors; points are printed, and nothing runs; jobs are submitted, and left
_QUIET = "--quiet"
_DRY_RUN, _NO_WAIT = "--dry-run", "--no-wait"
_OF_LAB = frozenset({_QUIET, _DRY_RUN, _NO_WAIT})
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
        function_of(experiment.register)()
        if planned(experiment, arguments, lambda words: composed(experiment.config, words)):
            return
        asked = {word for word in arguments if word in _OF_LAB}
        overrides, flags = _parsed(experiment, [word for word in arguments if word not in asked])
        _refuse_odd_variables()
        refuse_sweep(here, is_multirun=flags == ["--multirun"])
        if not flags or flags == ["--multirun"]:
            overrides += own_directories(experiment, overrides)
            _start(experiment, overrides, flags, asked)
            return
        if flags[0] in _COMPOSING:
            with _hydra():
                composed(experiment.config, overrides)
        if asked - ({_QUIET} if flags[0] not in _COMPOSING else set()):
            other = next((flag for flag in flags if flag in _COMPOSING), flags[0])
            raise ConfigError(f"{min(asked)} with {other}: it is about runs, and nothing runs; leave one of them out")
        if flags[0] not in _COMPOSING:
            overrides += own_directories(experiment, overrides)
        _enter(experiment, [*overrides, *flags], is_quiet=_QUIET in asked)


def _start(experiment: Experiment, overrides: Sequence[str], flags: Sequence[str], asked: Set[str]) -> None:
    """Check a run or the points of a sweep, and start what is not finished; or print what would be started."""
    refuse_missing_plugin(overrides)
    with _hydra():
        command = checked_command(experiment, overrides, is_multirun=bool(flags))
    _refuse_no_letters("hydra.sweep.dir" if command.is_sweep else "hydra.run.dir", str(command.folder))
    refuse_bad_levels(command.hydra)
    refuse_flags(command, is_left=_NO_WAIT in asked)
    if _DRY_RUN in asked:
        print_points(command)
        return
    refuse_begun(command)
    refuse_waiting(command)
    layers = [skipping(command)] if command.finished else []
    layers += [leaving(command)] if _NO_WAIT in asked else []
    more = []
    if command.is_search:
        more, layers = search_overrides(command), [in_own_folders(command)]
    with launcher_behind(*layers):
        _enter(experiment, [*overrides, *more, *flags], is_quiet=_QUIET in asked)
    if _NO_WAIT in asked:
        print_directory(command.folder)


def _enter(experiment: Experiment, words: Sequence[str], *, is_quiet: bool) -> None:
    """Give Hydra the command line."""
    import hydra

    # argparse wants overrides in front of flags
    words = [*(_QUIET_LOGS if is_quiet else ()), *silent_logs(), *words]
    said = quiet() if is_quiet else contextlib.nullcontext()
    # the undecorated function pickles by name, which is what launchers send to another machine
    entry = hydra.main(version_base="1.3", config_path="pkg://lab.conf", config_name=experiment.config)(
        function_of(experiment.job)
    )
    with _command_line([f"lab {experiment.command}", *words]), jobs_of_a_sweep(words), said:
        entry()


def _hydra() -> contextlib.AbstractContextManager[None]:
    """Hydra, for composing alone."""
    from hydra import initialize_config_module

    return cast("contextlib.AbstractContextManager[None]", initialize_config_module("lab.conf", version_base="1.3"))


def check_command(experiment: Experiment, arguments: Sequence[str]) -> None:
    """Refuse a command that `run_hydra_job` would refuse.

    Raises:
        LabError: for what the user can fix.
    """
    function_of(experiment.register)()
    for word in arguments:
        if word in _OF_LAB:
            raise ConfigError(f"{word}: a job runs a command as it stands; leave the flag out")
    overrides, flags = _parsed(experiment, arguments)
    _refuse_odd_variables()
    if flags not in ([], ["--multirun"]):
        raise ConfigError(f"{flags[0]}: a job runs a command as it stands; leave the flag out")
    with _hydra():
        checked_command(experiment, overrides, is_multirun=bool(flags))


def _parsed(experiment: Experiment, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, those of a run that is resumed included, and Hydra's flags."""
    words = arguments if experiment.words is None else experiment.words(arguments)
    return _split(resumed(words, study=experiment))


def _refuse_no_working_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError("the working folder was deleted; go to another one") from error


def _refuse_odd_variables() -> None:
    """Refuse values of the program's own variables that a run could not use.

    An empty name would mean the working folder, or the root; and Hydra would expand a part of a name.
    """
    for name in ("LAB_OUTPUTS", "LAB_RUN_DIR"):
        if not os.environ.get(name, name).strip():
            raise ConfigError(f"{name} is empty; give it a folder, or unset it")
        if "${" in os.environ.get(name, ""):
            raise ConfigError(f"{name}={os.environ[name]}: a folder with ${{ in its name cannot hold runs; rename it")
        _refuse_no_letters(name, os.environ.get(name, ""))
    seconds_between_lines()


def _refuse_no_letters(name: str, folder: str) -> None:
    """Refuse a folder whose name cannot be printed as it is: scripts, and libraries that write files, need it."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name}={folder}: a folder whose name is not UTF-8 cannot hold runs; rename it") from None


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
        with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
            parsed, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    except SystemExit as error:
        if not error.code:
            raise ConfigError("--version is not about a run; `lab version` prints that of lab") from error
        raise ConfigError(messages.getvalue().rstrip().rpartition("error: ")[2]) from error
    refuse_flags_together(parsed)
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
