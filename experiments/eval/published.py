"""Published scores, which tables show beside measured ones: data in conf/published."""

from functools import cache
from importlib.resources import files
from typing import Any

from lab.core.errors import ConfigError

_FILE = "mmmamba.yaml"


@cache
def published() -> dict[str, Any]:
    """What the paper reports: `benchmarks` (T1), `speed` (T2), `softmax_layers` (T5) and `placements` (T6)."""
    import yaml  # noqa: PLC0415 - once a run needs it

    content: dict[str, Any] = yaml.safe_load(files("lab.conf").joinpath("published", _FILE).read_text())
    return content


def refuse_unknown_models(names: list[str]) -> None:
    """Refuse a model that the paper does not report.

    Raises:
        ConfigError: naming the ones that exist.
    """
    known = published()["benchmarks"]
    for name in names:
        if name not in known:
            raise ConfigError(f"published={name}: choose from {', '.join(known)}")


def published_score(model: str, benchmark: str) -> float | None:
    """The headline of a model on a benchmark; None where the paper has none."""
    value = published()["benchmarks"][model].get(benchmark)
    return None if value is None else float(value)
