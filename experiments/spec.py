"""Description of an experiment for the command line, available before heavy imports."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any

# width of a help line; the command line indents it by two
_WIDTH = 78


@dataclass(frozen=True, slots=True)
class Experiment:
    """A Hydra job with a place on the command line.

    Attributes:
        command: the words after `lab`; a second word makes the first a group.
        config: the primary configuration in conf/.
        register: "module:function" that stores the configuration's schemas.
        check: "module:function" that refuses a composed configuration before anything is written, and returns what the
            run will need, in words, or nothing; its second argument is the folder where it will write, or None if
            another machine will run it.
        content: "module:function" that returns what config.json of a composed configuration would hold.
        job: "module:function" that runs one.
        schema: "module:class" of the configuration's dataclass.
        findings: "module:function" that returns what a report says of a `RecordedRun`.
        summary: a sentence that fits into the list of commands.
        help: returns what `--help` prints: the summary, groups, keys, examples. It may read files.
        words: turns a command line with words that are neither overrides nor flags into one without; None if there are
            no such words.
        plan: "module:function" that prints what a composed configuration will take, for `--plan`; empty if it has none.
        is_shared: whether several processes can work on one run; see `core.parallel`.
        grows, free: keys that may be others beside `resume=RUN`; see `core.runs.record.Extension`.
        recorded: "module:object" that draws and lists recorded runs; see `core.runs.recorded_study.RecordedStudy`.
    """

    command: str
    config: str
    register: str
    check: str
    content: str
    job: str
    schema: str
    recorded: str
    findings: str
    summary: str
    help: Callable[[], str]
    words: Callable[[Sequence[str]], list[str]] | None = None
    plan: str = ""
    is_shared: bool = False
    grows: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()


def function_of(name: str) -> Callable[..., Any]:
    """The function that "module:function" names, of a module that may be heavy."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def options_of_group(group: str, *, indent: int) -> str:
    """Lines for `--help` about a configuration group: each option, and the first line of its YAML file.

    Args:
        group: a folder of conf/.
        indent: spaces in front of each line but the first.
    """
    lines = []
    for path in sorted(files("lab.conf").joinpath(group).iterdir(), key=lambda path: path.name):
        name, _, ending = path.name.rpartition(".")
        if ending == "yaml":
            # an example may follow, for readers of the file
            summary = path.read_text().partition("\n")[0].removeprefix("# ").partition("   ")[0].rstrip(".")
            lines += textwrap.wrap(f"{name}: {summary}", _WIDTH - indent, subsequent_indent="  ")
    return f"\n{' ' * indent}".join(lines)
