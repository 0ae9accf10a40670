"""`--plan=N` behind a study: what its command would take in N processes, without a run."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from lab.core.errors import ConfigError
from lab.core.streams import printed
from lab.experiments.spec import Experiment

_FLAG, _JSON = "--plan", "--json"
_MOST = 1_000_000


def planned(experiment: Experiment, arguments: Sequence[str], composed: Callable[[list[str]], Any]) -> bool:
    """Print the plan of a command line that asks for one; whether it does.

    Args:
        experiment: the study, whose schemas are registered.
        arguments: its command line.
        composed: the configuration that overrides compose.

    Raises:
        LabError: for a flag that does not fit, or a configuration that is refused.
    """
    asked = [word for word in arguments if word.partition("=")[0] == _FLAG]
    if not asked:
        return False
    if not experiment.plan:
        raise ConfigError(f"{_FLAG}: lab {experiment.command} has no plan; leave it out")
    number = asked[-1].partition("=")[2] or "1"
    if not number.isdecimal() or not 1 <= int(number) <= _MOST:
        raise ConfigError(f"{asked[-1]}: give a number of processes, as in {_FLAG}=8")
    words = [word for word in arguments if word not in (*asked, _JSON)]
    for word in words:
        if word.startswith("-") or word.startswith("resume="):
            raise ConfigError(f"{word} with {_FLAG}: nothing is run; leave it out")
    from hydra import initialize_config_module

    module, _, function = experiment.plan.partition(":")
    print_plan = getattr(importlib.import_module(module), function)
    with initialize_config_module("lab.conf", version_base="1.3"), printed():
        print_plan(composed(words), int(number), as_json=_JSON in arguments)
    return True
