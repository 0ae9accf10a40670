"""The console script. It handles signals before the commands are imported, which takes a moment."""

import os

from lab.core.runs.early_signals import handle_early, ignore_late


def main() -> None:
    """Run the command `lab`."""
    handle_early()
    # workers are started by `python -c`, which would import a struct.py of the working folder as the library's
    os.environ["PYTHONSAFEPATH"] = "1"
    from lab.cli.main import main as run

    try:
        run()
    finally:
        ignore_late()
