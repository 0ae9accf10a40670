"""A command that is one of several processes of a run: connected with the others, silent unless it is the first."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from lab.cli.cluster.in_a_job import refuse_several_processes
from lab.core.errors import ConfigError
from lab.core.parallel.launched import Launched, launched
from lab.core.streams import mute, say
from lab.experiments.spec import Experiment

if TYPE_CHECKING:
    from lab.core.parallel.link import Link

# Hydra's, for a process that is not the first
_SILENT_LOGS = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled")

_link: "Link | None" = None


@contextmanager
def as_one_of_several(experiment: Experiment) -> Iterator[Launched | None]:
    """A context in which this process, if it is one of several, knows the others; it ends with all of them.

    Raises:
        ConfigError: if the experiment cannot be shared.
    """
    here = launched()
    if here is None:
        yield None
        return
    if here.rank > 0:
        mute()
    if not experiment.is_shared:
        refuse_several_processes(here)
    if here.address is None or not here.port:
        # a configuration that is refused says how to start them
        yield here
        return
    # connections that end with a process are no news to who ends them
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # with it comes torch
    from lab.core.parallel.link import Link
    from lab.core.parallel.processes import joined
    from lab.core.runs.console import quiet

    global _link
    _link = Link(here)
    if here.rank > 0:
        _link.forward_signals()
    with joined(_link):
        if here.rank == 0:
            yield here
        else:
            with quiet():
                yield here
    _link.leave()


def silent_logs() -> tuple[str, ...]:
    """Overrides with which Hydra keeps no log: those of a process that is one of several, and not the first."""
    here = launched()
    return _SILENT_LOGS if here is not None and here.rank > 0 else ()


def end_with(line: str, code: int, *, is_echo: bool = False) -> NoReturn:
    """End the command: with a line, said once by all of its processes, and an exit code.

    Args:
        line: what is said.
        code: of the process.
        is_echo: whether another process says why.
    """
    if _link is None:
        say(line)
        sys.exit(code)
    code = _link.fail(line, code, is_echo=is_echo)
    sys.stdout.flush()
    sys.stderr.flush()
    # threads of a connection whose other end is gone would wait, or print
    os._exit(code)


def end_others() -> None:
    """End the other processes because of a bug in this one, whose traceback Python prints."""
    if _link is not None:
        _link.fail(None, 1)


def refuse_sweep(here: Launched | None, *, is_multirun: bool) -> None:
    """Refuse a sweep in several processes.

    Raises:
        ConfigError: naming the flag.
    """
    if here is not None and is_multirun:
        raise ConfigError("-m: several processes work on one run; start them for each point of a sweep")
