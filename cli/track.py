"""`lab track`: the curves of a recorded run in a tracker."""

import time
from typing import Annotated

import typer

from lab.cli.help import RESULTS
from lab.core.errors import BackendError, ConfigError, InputError, LabError
from lab.core.printable import printable
from lab.core.runs.find import find_run, is_open, refuse_other_version
from lab.core.runs.trackers import new_tracker, refuse_missing, tracker_names
from lab.core.streams import printed, say

_HELP = f"""Pass a run on to a tracker, while it goes on or afterwards.

The tracker is one of {", ".join(tracker_names())}, and has to be installed. It writes
into the run's directory, offline, unless its environment variables say otherwise (docs/tracking.md). A run that goes on
is followed to its end; Ctrl-C ends that and leaves the run alone. What the tracker had of the run before is replaced.

\b
Examples:
  lab track RUN --to tensorboard
  lab track RUN --to wandb
"""


def add(app: typer.Typer) -> None:
    """Add the command `track`."""

    @app.command(help=_HELP, rich_help_panel=RESULTS)
    def track(
        run: Annotated[str, typer.Argument(help="The run: its directory, or the end of its name.")],
        to: Annotated[str, typer.Option(help="The tracker.")],
    ) -> None:
        from lab.cli.dispatch import one_line_errors

        with one_line_errors(), printed():
            print(printable(_passed_on(run, to)))


def _passed_on(name: str, tracker: str) -> str:
    from lab.core.runs.track import follow

    if tracker not in tracker_names():
        raise ConfigError(f"--to {tracker}: there is no such tracker; choose from {', '.join(tracker_names())}")
    refuse_missing(tracker)
    # trackers show its name: a dot has none
    run = find_run(name).resolve()
    if not (run / "metrics.jsonl").is_file():
        raise InputError(f"{run} has no metrics.jsonl; give a run, or one of the points of a sweep")
    refuse_other_version(run)
    if is_open(run):
        say(f"{run} goes on and is followed to its end; Ctrl-C stops following it")
    start = time.monotonic()
    try:
        reader = follow(run, new_tracker(tracker), has_ended=lambda: not is_open(run))
    except LabError:
        raise
    # whatever a tracker raises
    except Exception as error:
        raise BackendError(f"{tracker}: {type(error).__name__}: {error}") from error
    damaged = f", {reader.num_damaged} damaged lines left out" if reader.num_damaged else ""
    return f"{reader.num_rows} rows of {run} in {tracker}{damaged}, {time.monotonic() - start:.1f} s"
