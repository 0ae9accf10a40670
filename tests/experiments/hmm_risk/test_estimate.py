"""Estimates of memory and disk: against measured peaks, and what they refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from faults.share import every
from hydra import compose, initialize_config_module

from lab.core import resources
from lab.core.errors import ConfigError
from lab.experiments.hmm_risk.config import register
from lab.experiments.hmm_risk.job import check

SIZES = {
    "modes, wide": ("num_train=2000", "widths=[1000,4000]"),
    "modes, narrow": ("num_train=2000", "widths=[1000]"),
    "modes, many features": ("num_train=500", "widths=[8000]"),
    "modes, ridge": ("num_train=1500", "widths=[3000]", "ridge=[optimal]"),
    "modes, tested": ("num_train=1000", "widths=[500,2000]", "num_test=2000"),
    "modes, dependent": ("num_train=1000", "widths=[500,2000]", "tokens_per_sequence=10"),
    "small state": ("num_train=1500", "widths=[1000,3000]", "hmm=orthogonal", "hmm.state_dim=50"),
    "long context": (
        *("num_train=2000", "widths=[10]", "representation.num_features=10", "hmm=orthogonal", "context_length=100"),
    ),
    "filter": (
        *("num_train=1500", "widths=[100,500]", "hmm=orthogonal", "hmm.state_dim=600", "representation=kalman_state"),
        *("representation.observation_dim=100", "context_length=8"),
    ),
    "projection": (
        *("num_train=1000", "widths=[500,2000]", "hmm=orthogonal", "representation.size_map=random_projection"),
    ),
    "discrete": (
        *("num_train=20000", "hmm=dirichlet", "representation=posterior", "hmm.num_states=60", "hmm.num_tokens=500"),
        "population_sequences=20000",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", every(3, list(SIZES)))
def test_memory_is_estimated_within_a_factor_of_two(name: str) -> None:
    overrides = SIZES[name]
    noise = [] if "hmm=dirichlet" in overrides else ["observation_noise=0.5"]
    words = ["replicates=2", "figures=[]", *noise, *overrides]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("peak_of_cell.py")), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    estimated, measured = json.loads(done.stdout)
    print(f"{estimated / 1e6:.0f} MB estimated, {measured / 1e6:.0f} MB measured")
    assert measured / 2 < estimated < 2 * measured


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("num_train=20000", "widths=[40000]"), ("num_train=20000 with 40000 features", "GB", "are free", "workers")),
        (("widths=[1000000000]",), ("1000000000 features", "TB", "lower widths")),
        (("replicates=10000000",), ("replicates=10000000", "rows of 4 cells", "lower replicates")),
        (("hmm=orthogonal", "hmm.state_dim=1000000"), ("a state of 1000000", "hmm")),
        (("hmm=dirichlet", "representation=posterior", "hmm.num_states=1000000"), ("1000000 states",)),
    ],
)
def test_a_sweep_without_room_is_refused_with_its_estimate(
    overrides: tuple[str, ...], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 20 * 10**9)
    noise = [] if "hmm=dirichlet" in overrides else ["observation_noise=[0.1,0.2,0.3,0.4]"]
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("hmm_risk", overrides=[*noise, "workers=2", *overrides])
    with pytest.raises(ConfigError) as refusal:
        check(config, Path("nowhere"))
    for word in words:
        assert word in str(refusal.value)
    # another machine may have room
    check(config)


def test_a_disk_without_room_refuses_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_disk", lambda folder: 1000)
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("hmm_risk")
    with pytest.raises(ConfigError, match="on the disk of nowhere, 0 MB are free; lower replicates"):
        check(config, Path("nowhere"))
