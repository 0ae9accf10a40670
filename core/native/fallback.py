"""Say which work torch does because its compiled loop is missing."""

from collections.abc import Mapping

from lab.core.streams import say


def say_missing_loops(missing: Mapping[str, str]) -> None:
    """One line that names the operators, and why the loop of the first is missing; nothing if none is.

    Args:
        missing: the reason by operator.
    """
    if missing:
        reason = next(iter(missing.values()))
        say(f"{', '.join(missing)} in torch, slower and with other last digits: {reason}")
