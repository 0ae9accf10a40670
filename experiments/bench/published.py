"""The paper's efficiency, which is shown beside what is measured here: data in conf/published."""

from functools import cache
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf

from lab.experiments.bench.long_context.setting import parsed


@cache
def _content() -> dict[str, Any]:
    text = files("lab.conf").joinpath("published", "mmmamba.yaml").read_text()
    content = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(content, dict), "the file is a mapping"
    return {str(key): value for key, value in content.items()}


def published_curve(model: str, quantity: str) -> dict[int, float]:
    """Figure 1 c and d: `latency_ms` or `memory_gb` of a model by tokens."""
    points = _content()["long_context"][model][quantity]
    return {parsed(length)[0]: float(value) for length, value in points.items()}


def published_speed(model: str) -> dict[str, float]:
    """Table 2: visual tokens, tokens per second, total seconds."""
    return {key: float(value) for key, value in _content()["speed"][model].items()}
