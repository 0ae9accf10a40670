"""`lab report`: one HTML file about recorded runs of any study."""

import importlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from lab.core.errors import ConfigError, RunError
from lab.core.report.content import Findings
from lab.core.report.page import GENERATOR, RunReport, page
from lab.core.report.recorded import RecordedRun
from lab.core.runs.atomic_files import refuse_special, write_atomically
from lab.core.runs.find import find_run, in_order, outputs_root, refuse_other_version, run_directories
from lab.core.streams import say
from lab.experiments.key_help import keys_of
from lab.experiments.spec import Experiment

_OF_A_RUN = ("status.json", "config.json", "overrides.json")

# characters in which an earlier report says what it is
_HEAD = 1000


def write_report(names: Sequence[str], output: Path, experiments: Sequence[Experiment]) -> None:
    """Write a report about runs, and print where it is.

    Raises:
        ConfigError: if another file than an earlier report is in its place.
        RunError: if there is no such run, another version of lab recorded it, or the file cannot be written.
    """
    _refuse_other_file(output)
    directories = [directory for name in names for directory in _directories(name)]
    # one run under two names is one run
    different = {directory.resolve(): directory for directory in directories}
    reports = [_report(directory, experiments) for directory in different.values()]
    command = shlex.join(["lab", "report", *names, "-o", str(output)])
    # a file's name may have bytes that are no letters, which are written as their numbers
    content = page(reports, command).encode(errors="backslashreplace").decode()
    write_atomically(output, content)
    print(f"{output}: {len(reports)} run{'s' * (len(reports) != 1)}, {len(content.encode()) / 1e6:.2f} MB")


def _refuse_other_file(output: Path) -> None:
    refuse_special(output, ConfigError)
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; give the name of a file, as in -o {output / 'report.html'}")
    try:
        head = output.read_bytes()[:_HEAD]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{output} cannot be replaced ({error.strerror}); give another name with -o") from error
    if f'content="{GENERATOR}"'.encode() not in head:
        raise ConfigError(f"{output} is there and is not a report of lab; give another name with -o")


def _directories(name: str) -> list[Path]:
    """The run that a name means; of a sweep, its points."""
    directory = find_run(name)
    if any((directory / file).exists() for file in _OF_A_RUN):
        refuse_other_version(directory)
        return [directory]
    points = in_order(run_directories(directory))
    if not points:
        raise RunError(f"{directory} holds no run; `lab runs` lists them")
    for point in points:
        refuse_other_version(point)
    return points


def _report(directory: Path, experiments: Sequence[Experiment]) -> RunReport:
    run = RecordedRun(directory, _name(directory))
    found = next((experiment for experiment in experiments if _is_of(run, experiment)), None)
    if found is None:
        fault = "its configuration is of no study of this lab: only what is in its folder is shown"
        return RunReport(run=run, study="Other runs", command="", findings=Findings(faults=[fault]))
    module, _, function = found.findings.partition(":")
    try:
        findings = getattr(importlib.import_module(module), function)(run)
    except RunError as error:
        findings = Findings(faults=[str(error)])
    # the tables of a damaged or foreign run can hold anything: the rest of the report is worth having
    except Exception as error:
        fault = f"its claims could not be judged ({type(error).__name__}: {error}): its tables are not as recorded"
        findings = Findings(faults=[fault])
        say(f"{run.name}: {fault}")
    return RunReport(run=run, study=found.summary, command=_again(found, run.overrides), findings=findings)


def _again(experiment: Experiment, overrides: Sequence[str]) -> str:
    """The command that makes a run again; of a point of `experiment=STUDY/all`, the one of its experiment alone."""
    alone = f"+experiment/{experiment.config}="
    is_point = f"experiment={experiment.config}/all" in overrides
    words = [word for word in overrides if not (is_point and word == f"experiment={experiment.config}/all")]
    if is_point:
        words = [
            f"experiment={experiment.config}/{word.removeprefix(alone)}" if alone in word else word for word in words
        ]
    return shlex.join(["lab", *experiment.command.split(), *words])


def _is_of(run: RecordedRun, experiment: Experiment) -> bool:
    known = {key.partition(".")[0] for key in keys_of(experiment.schema)}
    return bool(run.config) and run.config.keys() <= known


def _name(directory: Path) -> str:
    """As `lab runs` lists it; elsewhere, from the working folder."""
    for root in (outputs_root(), Path()):
        try:
            return directory.resolve().relative_to(root.resolve()).as_posix()
        except ValueError:
            continue
    return os.fspath(directory)
