"""How a run of several processes ends before its time."""

from typing import NamedTuple

from lab.core.errors import RunError

GO_ON = "torchrun --max-restarts or resume=RUN goes on from the last checkpoint"
DEAD, STOOD = "was killed or died", "was stopped, and did not go on for {:g} s"


class EndedElsewhere(RunError):
    """Another process ends the run and says why; this one ends without a word."""


class End(NamedTuple):
    """How a run ended: by which process, with what line and exit code."""

    rank: int
    code: int
    line: str
