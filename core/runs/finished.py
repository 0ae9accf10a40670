"""Whether a run is finished, undamaged, and of a certain configuration, told without opening it."""

import json
from collections.abc import Mapping
from pathlib import Path

from lab.core.errors import RunError
from lab.core.runs.find import SCHEMA_VERSION
from lab.core.runs.json_files import finite, json_object_or_none
from lab.core.runs.record import deciding
from lab.core.runs.sums import SUMS, check_files


def is_finished_as(directory: Path, config: Mapping[str, object]) -> bool:
    """Whether a run has ended well with this configuration, and its files are as they were then.

    Args:
        directory: of the run.
        config: the configuration that a run there would record; keys without an effect on numbers are not compared.
    """
    status = json_object_or_none(directory / "status.json") or {}
    if status.get("status") != "finished" or status.get("schema_version") != SCHEMA_VERSION:
        return False
    expected = json.loads(json.dumps(finite(deciding(config)), default=str))
    if json_object_or_none(directory / "config.json") != expected or not (directory / SUMS).exists():
        return False
    if not all((directory / name).exists() for name in ("table.parquet", "summary.json")):
        return False
    try:
        check_files(directory, hint="", error=RunError)
    except RunError:
        return False
    return True
