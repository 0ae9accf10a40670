"""Every shipped configuration composes, and every experiment describes problems that exist."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from lab.core.hydra_schema import to_typed
from lab.experiments.hmm_risk.config import HmmRiskConfig, register
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.results.figures import figure_names

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment" / "hmm_risk").glob("f*.yaml"))


@cache
def composed(*overrides: str) -> HmmRiskConfig:
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        return to_typed(compose("hmm_risk", overrides=list(overrides)), HmmRiskConfig)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_describes_problems_that_exist(name: str) -> None:
    config = composed(f"experiment=hmm_risk/{name}")
    assert expand(config)
    assert config.title.startswith(f"F{int(name[1:3])}:")


def test_an_experiment_says_what_to_expect_how_long_it_takes_and_how_to_run_it() -> None:
    missing = []
    for name in EXPERIMENTS:
        text = (CONF / "experiment" / "hmm_risk" / f"{name}.yaml").read_text()
        needed = ("Expected", "on two cores", f"lab hmm-risk sweep experiment=hmm_risk/{name}")
        missing += [f"{name}: {words}" for words in needed if words not in text]
    assert missing == []


def test_all_runs_every_experiment_that_is_there() -> None:
    register()
    text = OmegaConf.load(CONF / "experiment" / "hmm_risk" / "all.yaml")
    (names,) = text.hydra.sweeper.params.values()
    assert names.split(",") == EXPERIMENTS


def test_every_figure_is_drawn_by_an_experiment() -> None:
    drawn = {figure for name in EXPERIMENTS for figure in composed(f"experiment=hmm_risk/{name}").figures}
    assert drawn == set(figure_names())


@pytest.mark.parametrize("name", options("hmm"))
def test_every_hmm_composes_with_a_representation_of_its_own(name: str, tmp_path: Path) -> None:
    representation = "posterior" if name in ("dirichlet", "permutations") else "last_token"
    more = []
    if name == "file":
        path = tmp_path / "own.npz"
        np.savez(path, transition=0.5 * np.eye(2), loading=np.ones((1000, 2)), state_noise_covariance=np.eye(2))
        more = [f"hmm.path={path}"]
    assert expand(composed(f"hmm={name}", f"representation={representation}", *more))
