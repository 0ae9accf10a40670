"""Which student of a run is meant, by RUN@STAGE:VARIANT:REPLICATE; without torch, for who only reads records."""

import re
from dataclasses import dataclass
from pathlib import Path

from lab.core.errors import ConfigError
from lab.core.runs.find import is_listed

# RUN@STAGE:VARIANT:REPLICATE, of which each part may be left out
SELECTED = re.compile(r"(?P<name>.+)@(?P<stage>[0-3]?)(:(?P<variant>[^:]*))?(:(?P<replicate>\d{1,9}|\*))?")
ALL_REPLICATES = "*"


@dataclass(frozen=True, slots=True)
class StudentSelector:
    """Which student of a run.

    Attributes:
        stage: the student after this stage, 0 for the untrained one; None for the last finished stage.
        variant: its label; None if there is only one.
        replicate: number of the replicate.
    """

    stage: int | None = None
    variant: str | None = None
    replicate: int = 0

    @property
    def is_any(self) -> bool:
        """Whether it is the default."""
        return self == StudentSelector()


def selected(word: str) -> tuple[str, StudentSelector]:
    """The name of a run and which of its students RUN@STAGE:VARIANT:REPLICATE means; another word is a name.

    Raises:
        ConfigError: if it means all replicates.
    """
    matched = SELECTED.fullmatch(word)
    if matched is None or Path(word).exists() or is_listed(word):
        return word, StudentSelector()
    stage, replicate = matched["stage"], matched["replicate"] or 0
    if replicate == ALL_REPLICATES:
        raise ConfigError(f"{word} is all replicates, and one model is asked for; give the number of one")
    return matched["name"], StudentSelector(int(stage) if stage else None, matched["variant"] or None, int(replicate))


def selected_by(word: str, options: StudentSelector) -> tuple[str, StudentSelector]:
    """As `selected`, for commands whose options --stage, --variant and --replicate choose a student too.

    Raises:
        ConfigError: as `selected`, and if both choose.
    """
    name, selector = selected(word)
    if name == word:
        return word, options
    if not options.is_any:
        raise ConfigError(f"{word} chooses a student, and so do --stage, --variant and --replicate; leave one out")
    return name, selector
