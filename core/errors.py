"""What the user can get wrong. Each ends the command with one line and exit code 2.

A message names the key, argument or file, the value it had, what was expected, and the fix.
"""


class LabError(ValueError):
    """A mistake in what the user asked for; anything else that is raised is a defect of ours."""


class ConfigError(LabError):
    """A configuration key whose value cannot be used."""


class InputError(LabError):
    """An argument of a core function that does not describe what it should: shape, range, or not finite."""


class RunError(LabError):
    """A run directory that cannot be opened, read or continued."""


class BackendError(LabError):
    """An implementation of an operator that was asked for by name and cannot run here."""


class CheckpointError(LabError):
    """A stored model or state that is missing, damaged or does not fit."""
