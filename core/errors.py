"""Errors caused by the user's input. Each ends the command with one line and exit code 2.

A message names the key, argument or file, the value it had, what was expected, and the fix.
"""


class LabError(ValueError):
    """A mistake in the user's input; any other exception is a bug in lab."""


class ConfigError(LabError):
    """A configuration key whose value cannot be used."""


class InputError(LabError):
    """An invalid argument of a core function: wrong shape, out of range, or not finite."""


class RunError(LabError):
    """A run directory that cannot be opened, read or continued."""


class BackendError(LabError):
    """An operator implementation that was requested by name but cannot run here."""


class CheckpointError(LabError):
    """A stored model or training state that is missing, damaged or does not match."""
