"""A conversation: every turn of the user is answered, and the state goes on from turn to turn where it can."""

import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import torch

from lab.core.data.prompt_format import IMAGE_TOKENS
from lab.core.errors import ConfigError, InputError, LabError
from lab.core.models.decoder import Inputs
from lab.core.models.generation import allocate, depends_on_room
from lab.core.models.steps import Steps
from lab.core.runs.random_streams import Seeds
from lab.core.streams import say
from lab.experiments.distill.generation.answer import Report, Respondent

_NEW, _END = "/new", "/end"
_HELP = f"write a line and press Enter; {_NEW} begins a new conversation, {_END} or Ctrl-D ends"
# of a conversation so far: how much longer it may get before its state is made larger
_GROWTH = 2


class Conversation:
    """Turns of a user and a model."""

    def __init__(self, respondent: Respondent, images: Sequence[Path], day: date) -> None:
        """A conversation that has not begun; `images` belong to its first question.

        Raises:
            ConfigError: if the model has no chat template.
        """
        if respondent.opened.template is None:
            raise ConfigError("--chat: the model has no chat template; use --prompt, which it reads as it is")
        self._respondent = respondent
        self._images = images
        self._day = day
        self._turns: list[str] = []
        self._steps: Steps | None = None
        # tokens that the state has read, and for how many it has room
        self._known: list[int] = []
        self._room = 0

    def ask(self, question: str, generator: torch.Generator) -> Report:
        """Answer a question; a turn that cannot be answered is not kept.

        Raises:
            LabError: if the conversation does not fit the model, or its state not into memory.
        """
        prompt = self._respondent.opened.read_turns([*self._turns, question], self._images, day=self._day)
        limit = self._respondent.limit(prompt)
        ids = prompt.tokens[0].tolist()
        count = len(self._known)
        if self._steps is None or ids[:count] != self._known or len(ids) + limit > self._room or count >= len(ids):
            self._steps, count = self._allocated(prompt, limit), 0
        rest = prompt if count == 0 else Inputs(tokens=prompt.tokens[:, count:])
        written: list[int] = []
        # what is read now is known only if it is read to the end
        self._known = [-1]
        report = self._respondent.go_on(
            self._steps, rest, generator, limit=limit, num_known=count, follow=written.append
        )
        # the last token was not read
        self._known = ids + written[:-1]
        self._turns += [question, _without_image_tokens(report.text)]
        return report

    def _allocated(self, prompt: Inputs, limit: int) -> Steps:
        model = self._respondent.opened.model
        num_more = limit if depends_on_room(model) else limit + (_GROWTH - 1) * (prompt.tokens.shape[1] + limit)
        self._room = prompt.tokens.shape[1] + num_more
        return Steps(model, allocate(model, prompt, num_more))


def _without_image_tokens(text: str) -> str:
    """An answer as a turn of the conversation: a poor model may write tokens that stand for images."""
    for token in IMAGE_TOKENS:
        text = text.replace(token, " ")
    return text


def chat(respondent: Respondent, images: Sequence[Path], *, seeds: Seeds, day: date) -> None:
    """Answer lines of standard input until it ends.

    Raises:
        LabError: as `Conversation`; in a terminal, a turn that cannot be answered is said and the conversation goes on.
    """
    conversation = Conversation(respondent, images, day)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        say(_HELP)
    for number, line in enumerate(_lines(is_terminal=is_terminal)):
        if line == _END:
            return
        if line == _NEW:
            conversation = Conversation(respondent, images, day)
            continue
        try:
            report = conversation.ask(line, seeds.torch("generate", number))
        except LabError as error:
            if not is_terminal:
                raise
            say(str(error))
            continue
        respondent.write("\n")
        say(report.line())


def _lines(*, is_terminal: bool) -> Iterator[str]:
    if is_terminal:
        # arrow keys
        import readline  # noqa: F401, PLC0415
    while True:
        try:
            line = input("> ") if is_terminal else input()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise InputError(f"--chat: standard input is not UTF-8 ({error}); give text in UTF-8") from None
        if line.strip():
            yield line
