"""What the command line needs to know of an experiment before anything heavy is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Experiment:
    """A Hydra job with a place on the command line.

    Attributes:
        command: the words after `lab`; a second word makes the first a group.
        config: the primary configuration in conf/.
        register: "module:function" that stores the configuration's schemas.
        check: "module:function" that refuses a composed configuration before anything is written.
        job: "module:function" that runs one.
        help: what `--help` prints: groups, main keys, examples.
    """

    command: str
    config: str
    register: str
    check: str
    job: str
    help: str
