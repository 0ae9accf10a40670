"""What `--help` prints beyond typer: commands in sections, and the help of a study, composed when it is asked for."""

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand, TyperGroup

EXPERIMENTS, RESULTS, MODELS, MACHINE = "Experiments", "Results", "Models", "This machine"
_SECTIONS = (EXPERIMENTS, RESULTS, MODELS, MACHINE)


class SectionedGroup(TyperGroup):
    """Commands under the headings of their `rich_help_panel`, which typer itself prints only with rich."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a list for each section, in their order."""
        commands = [(name, command) for name, command in self.commands.items() if not command.hidden]
        limit = formatter.width - 6 - max(len(name) for name, _ in commands)
        for section in _SECTIONS:
            rows = [
                (name, command.get_short_help_str(limit))
                for name, command in commands
                if getattr(command, "rich_help_panel", None) == section
            ]
            # one column for all sections
            with formatter.section(section):
                formatter.write_dl([(name.ljust(max(len(name) for name, _ in commands)), text) for name, text in rows])


def command_with_help(text: Callable[[], str]) -> type[TyperCommand]:
    """A class of commands whose `--help` prints a text that is composed then: it reads files."""

    class Command(TyperCommand):
        def format_help_text(self, ctx: Any, formatter: Any) -> None:
            self.help = text()
            super().format_help_text(ctx, formatter)

    return Command
