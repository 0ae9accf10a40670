"""A key that belongs to another option of its group is answered with the options that have it."""

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException

from lab.cli.hydra_errors import hydra_message
from lab.experiments.hmm_risk.config import register


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["hmm.num_states=4"],
            "hmm.num_states: the chosen option of hmm has no such key; choose hmm=dirichlet or hmm=permutations",
        ),
        (
            ["head.max_iterations=4"],
            "head.max_iterations: the chosen option of head has no such key; choose head=logistic",
        ),
        (["hmm=dirichlet", "hmm.spectral_radius=0.5"], "hmm=orthogonal_modes"),
        (["hmm.nope=4"], "hmm.nope"),
        (["hmm.spectral_radus=0.4"], "did you mean spectral_radius?"),
        (["nope=4"], "nope"),
    ],
)
def test_the_options_that_have_the_key_are_named(overrides: list[str], message: str) -> None:
    register()
    with initialize_config_module("lab.conf", version_base="1.3"), pytest.raises(ConfigCompositionException) as error:
        compose("hmm_risk", overrides=overrides)
    found = hydra_message(error.value)
    assert found is not None
    assert message in found
    assert "append" not in found
    assert "\n" not in found
