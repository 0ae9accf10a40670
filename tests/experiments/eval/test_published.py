"""The published numbers: whole, and in agreement with one another."""

import pytest

from lab.core.benchmarks.spec import benchmarks
from lab.core.errors import ConfigError
from lab.experiments.eval.config import EvalConfig
from lab.experiments.eval.published import published, published_score


def test_tables_agree_where_they_report_the_same_model() -> None:
    content = published()
    table = content["benchmarks"]
    names = {name for row in table.values() for name in row}
    assert names == benchmarks().keys() - {"questions"}
    assert all(row.keys() == names for model, row in table.items() if "HoVLE" in model or "mmMamba" in model)
    for row, model in ((0, "mmMamba-linear"), (8, "mmMamba-hybrid"), (32, "HoVLE")):
        assert content["softmax_layers"][row].items() <= table[model].items()
    assert content["placements"]["head_interleaved"] == content["softmax_layers"][8]
    # 256 tokens in the reported time
    for row in content["speed"].values():
        assert 256 / row["tokens_per_s"] == pytest.approx(row["total_s"], abs=0.006)


def test_a_model_that_is_not_reported_is_refused() -> None:
    assert published_score("Cobra", "pope") == 88.4
    assert published_score("Cobra", "mme") is None
    with pytest.raises(ConfigError, match="published=Pegasus: choose from"):
        EvalConfig(models=["m"], tasks=["t"], published="Pegasus")
