"""`lab data check`: all faults of files of conversations at once, with lengths and tiles."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from lab.cli.help import MODELS
from lab.core.errors import InputError
from lab.core.printable import printable
from lab.core.ranges import LARGEST_COUNT
from lab.core.streams import printed

_HELP = """Read every sample of your conversations, and list all faults.

Each fault is a line with file, line and reason; then come counts by reason, lengths in tokens of the teacher, tiles,
and the share above the maximum length. PATH is what data.conversations.path may be (docs/data.md). The exit code is 0
if `lab distill` would take the files, leaving out what is faulty, and 2 otherwise. Give --max-tiles and
--held-out-share as the run will have them.

\b
Examples:
  lab data check chats.jsonl --teacher shipped
  lab data check meta.json --teacher FOLDER --max-length 8192 --json
"""


def add(app: typer.Typer) -> None:
    """Add the command `data check`."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name="data", help="Files of conversations for `lab distill`.", rich_help_panel=MODELS)
    group.callback()(lambda: None)

    @group.command(help=_HELP)
    def check(
        path: Annotated[Path, typer.Argument(help="A file or folder of conversations, or a list of data sets.")],
        image_folder: Annotated[
            Path | None,
            typer.Option(help="Folder of the images; by default that of the file, or PATH itself if it is a folder."),
        ] = None,
        teacher: Annotated[
            str | None,
            typer.Option(
                help="Whose tokenizer counts: a checkpoint folder, a GGUF file, a run, or `shipped`; by default "
                "nothing is counted."
            ),
        ] = None,
        max_length: Annotated[
            int | None,
            typer.Option(
                min=1, max=LARGEST_COUNT, help="Tokens that a sample may have; by default as the teacher's context."
            ),
        ] = None,
        max_tiles: Annotated[
            int | None,
            typer.Option(
                min=1,
                max=256,
                help="Tiles that an image may have, as prompt.max_tiles; by default as in training of a run or an "
                "exported student, else 12, as a run's default.",
            ),
        ] = None,
        held_out_share: Annotated[
            float | None,
            typer.Option(
                min=0,
                max=1,
                help="Share of the samples that a run holds out, as data.conversations.held_out_share; by default "
                "0.01.",
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
    ) -> None:
        from lab.cli.dispatch import one_line_errors
        from lab.cli.run_data import print_json

        with one_line_errors():
            if max_length is not None and teacher is None:
                raise InputError("--max-length counts tokens of a teacher; name it with --teacher")
            with printed():
                module = importlib.import_module("lab.experiments.distill.check_data")
                found = module.check_conversations(
                    path,
                    image_folder=image_folder,
                    teacher=teacher,
                    limit=max_length,
                    max_tiles=max_tiles,
                    held_out_share=held_out_share,
                )
                if as_json:
                    print_json(found.content())
                else:
                    for line in found.lines():
                        print(printable(line))
            if found.refusal is not None:
                raise InputError(f"a run would not take {path}: {found.refusal}")
