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

from lab.cli.hydra_errors import WithoutHydrasLine, hydra_message
from lab.cli.override_errors import explain_failure, unreachable_key
from lab.cli.resume import resumed
from lab.core.errors import ConfigError, LabError
from lab.core.runs.atomic_files import as_run_error
from lab.experiments.spec import Experiment

# points of a sweep that are checked before the first one starts; composing one takes about 0.1 s
_MOST_CHECKED = 200

# Hydra's flags that print a configuration, and run nothing
_COMPOSING = ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--run", "-r")

_INTERRUPTED = 130


def run_hydra_job(experiment: Experiment, arguments: Sequence[str]) -> None:
    """Run `experiment` under Hydra with `arguments` as its command line: overrides, `resume=RUN`, and Hydra's flags.

    Exits with code 2 and one line for mistakes of the user, with 130 when interrupted.
    """
    # warnings of the checks, such as samples that are skipped, go nowhere: a refusal is one line
    logging.getLogger("lab").addHandler(logging.NullHandler())
    with one_line_errors("interrupted; what is recorded is kept, and resume=RUN goes on"):
        _load(experiment.register)()
        overrides, flags = _split(resumed(arguments))
        _refuse_interpolated_places()
        if not flags or flags == ["--multirun"]:
            _check_every_point(experiment, overrides, is_multirun=bool(flags))
        elif flags[0] in _COMPOSING:
            from hydra import initialize_config_module

            with initialize_config_module("lab.conf", version_base="1.3"):
                _composed(experiment.config, overrides)
        import hydra

        # the undecorated function pickles by name, which is what launchers send to another machine
        entry = hydra.main(version_base="1.3", config_path="pkg://lab.conf", config_name=experiment.config)(
            _load(experiment.job)
        )
        with _command_line([f"lab {experiment.command}", *overrides, *flags]):
            entry()


def _refuse_interpolated_places() -> None:
    """Hydra would expand a part of the directory's name when it opens the log file there."""
    for name in ("LAB_OUTPUTS", "LAB_RUN_DIR"):
        if "${" in os.environ.get(name, ""):
            raise ConfigError(f"{name}={os.environ[name]}: a folder with ${{ in its name cannot hold runs; rename it")


@contextlib.contextmanager
def one_line_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turn mistakes of the user into one line on stderr and exit code 2; other exceptions propagate.

    Ctrl-C ends with exit code 130 and the line `interrupted`.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"lab: {interrupted}", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        print(f"lab: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


def _message(error: Exception) -> str | None:
    """The line for an error that the user can fix, None for any other."""
    if isinstance(error, LabError):
        return str(error)
    if isinstance(error, MemoryError):
        reason = str(error) or "an allocation failed"
        return f"out of memory: {reason}; lower workers, sizes or batch_size, and resume=RUN goes on"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return "out of memory: torch asked for more than there is; lower sizes or batch_size, and resume=RUN goes on"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:80]}… is longer than names of files can be; give a shorter one"
    # before OSError: Hydra's error for an option that does not exist is one
    message = hydra_message(error)
    if message is not None or not isinstance(error, OSError):
        return message
    known = as_run_error(error, Path(error.filename or "the output folder"))
    return str(known) if isinstance(known, LabError) else None


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
        if is_multirun:
            params = [f"{key}={value}" for key, value in (first.hydra.sweeper.get("params") or {}).items()]
            more_fixed, more_axes = _sweep_axes(params)
            fixed, axes = fixed + more_fixed, axes + more_axes
        folder = _output_folder(first.hydra, is_multirun=is_multirun)
        for point in itertools.islice(itertools.product(*axes), _MOST_CHECKED):
            words = [*fixed, *point]
            try:
                # one point is composed already
                check(_composed(experiment.config, words) if axes else _without_hydra(first), folder)
            except ConfigError as error:
                is_added = any(word.startswith("+") for word in words)
                message = unreachable_key(experiment.config, words) if is_added else None
                raise ConfigError(message or str(error)) from error


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
        return compose(config, overrides=list(overrides), **options)
    except Exception as error:
        raise ConfigError(explain_failure(config, overrides, error)) from error


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
