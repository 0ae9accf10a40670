"""The console script. It handles signals before the commands are imported, which takes a moment."""

from lab.core.runs.early_signals import handle_early, ignore_late


def main() -> None:
    """Run the command `lab`."""
    handle_early()
    from lab.cli.main import main as run

    try:
        run()
    finally:
        ignore_late()
