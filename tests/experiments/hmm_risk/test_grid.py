"""Grids become cells, and combinations that describe no problem are refused by key, value and fix."""

from typing import Any

import pytest

from lab.core.errors import ConfigError
from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    HmmRiskConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationConfig,
    RepresentationName,
    SizeMap,
    Start,
    TaskConfig,
    TaskName,
    Transition,
)
from lab.experiments.hmm_risk.grid.expand import expand, merged_points
from lab.experiments.hmm_risk.grid.keys import shipped_keys
from lab.experiments.hmm_risk.heads.logistic import LogisticOptions

# its first token has unit variance, and later ones less or more
MOVING_START = LinearGaussianConfig(start=Start.identity, state_noise=0.5)


def modes(**fields: Any) -> LinearGaussianConfig:
    return LinearGaussianConfig(**({"loading": Loading.identity, "state_dim": None, "spectral_radius": 0.95} | fields))


def config(**fields: Any) -> HmmRiskConfig:
    return HmmRiskConfig(**({"hmm": LinearGaussianConfig(), "gammas": [0.5, 2.0], "num_train": 100} | fields))


def test_grids_multiply_and_legends_name_what_varies() -> None:
    cells = expand(config(hmm=modes(), snr=[1, 5], num_train=[100, 200]))
    assert [cell.label for cell in cells] == ["n = 100, SNR 1", "n = 100, SNR 5", "n = 200, SNR 1", "n = 200, SNR 5"]
    assert [cell.widths for cell in cells] == [(50, 200), (50, 200), (100, 400), (100, 400)]
    assert [cell.index for cell in cells] == [0, 1, 2, 3]


def test_one_point_needs_no_legend() -> None:
    (cell,) = expand(config())
    assert cell.label == ""


def test_widths_stand_instead_of_gammas() -> None:
    (cell,) = expand(config(widths=[3, 7]))
    assert cell.widths == (3, 7)


def test_one_value_stands_for_a_list_of_one() -> None:
    one = config(gammas=2, ridge=0.1, figures="total_risk", sinks="csv")
    many = config(gammas=[2.0], ridge=[0.1], figures=["total_risk"], sinks=["csv"])
    assert one == many
    assert expand(config(gammas=None, widths=7, ridge="optimal"))[0].ridge == ("optimal",)


def test_a_state_of_rotating_planes_grows_by_two_features() -> None:
    (cell,) = expand(config(hmm=modes(), gammas=[0.003, 0.25, 0.49, 1.0, 1.5], num_train=30))
    assert cell.widths == (2, 8, 14, 30, 44)
    (slow,) = expand(config(hmm=modes(transition=Transition.symmetric), gammas=[0.25, 0.5], num_train=30))
    assert slow.widths == (8, 15)


def test_curves_change_nested_keys_only_where_they_say_so() -> None:
    first, second = expand(config(curves={"small": {"hmm": {"state_dim": 5}}, "noisy": {"observation_noise": 2}}))
    assert (first.hmm.state_dim, first.observation_noise, first.label) == (5, 0.5, "small, noise 0.5")  # type: ignore[union-attr]
    assert (second.hmm.state_dim, second.observation_noise) == (50, 2.0)  # type: ignore[union-attr]


def test_a_posterior_is_as_wide_as_there_are_states_and_has_no_noise() -> None:
    cells = expand(
        config(
            gammas=shipped_keys()["gammas"],
            hmm=DiscreteConfig(num_states=[4, 9], num_tokens=7),
            representation=RepresentationConfig(name=RepresentationName.posterior),
            task=TaskConfig(name=TaskName.next_token),
        )
    )
    assert [cell.widths for cell in cells] == [(4,), (9,)]


def test_gammas_that_are_one_width_are_said() -> None:
    assert merged_points(config(gammas=[0.001, 0.002, 0.5], num_train=[50, 1000])) == [
        "gammas with num_train=50: 0.001 and 0.002 are p = 1; each is one point"
    ]
    assert merged_points(config(widths=[3, 7])) == []
    (line,) = merged_points(config(curves={"few": {"num_train": 10, "gammas": [0.5, 0.52]}, "many": {}}))
    assert line.startswith("curves.few: gammas with num_train=10: 0.5 and 0.52 are p = 5")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"hmm": LinearGaussianConfig(state_noise=1e4), "observation_noise": 1e-4},
            ["observation_noise=0.0001", "size of the state", "0.0167"],
        ),
        (
            {
                "observation_noise": 1e-4,
                "representation": RepresentationConfig(size_map=SizeMap.random_projection),
            },
            ["observation_noise=0.0001", "random projection", "0.001"],
        ),
        (
            {
                "widths": [5],
                "gammas": shipped_keys()["gammas"],
                "hmm": DiscreteConfig(),
                "representation": RepresentationConfig(name=RepresentationName.posterior),
            },
            ["widths=[5]", "as wide as hmm has states"],
        ),
        ({"tokens_per_sequence": 5, "context_length": 5}, ["context_length=5", "one row a sequence"]),
        ({"num_train": 0}, ["num_train=0", "whole numbers"]),
        ({"num_train": 10.5}, ["num_train=10.5"]),
        ({"num_train": []}, ["num_train=[]", "empty"]),
        ({"gammas": []}, ["gammas=[]", "empty"]),
        ({"gammas": [0.5, 0.0]}, ["gammas=0.0", "1e-09 to"]),
        ({"gammas": [-1.0]}, ["gammas=-1.0", "1e-09 to"]),
        ({"gammas": None}, ["gammas=null", "widths"]),
        ({"widths": [5, 3]}, ["widths=[5, 3]", "ascending"]),
        ({"widths": [0, 3]}, ["widths=[0, 3]"]),
        ({"hmm": modes(), "widths": [4, 7]}, ["widths contains 7", "even"]),
        ({"ridge": [-0.1]}, ["ridge=-0.1"]),
        ({"ridge": ["best"]}, ["ridge=best", "optimal"]),
        ({"observation_noise": -1}, ["observation_noise=-1"]),
        ({"observation_noise": 0}, ["observation_noise=0.0", "positive"]),
        ({"replicates": 1}, ["replicates=1", "2 or more"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"workers": 0}, ["workers=0"]),
        ({"rank_tolerance": 1.0}, ["rank_tolerance=1.0"]),
        ({"tokens_per_sequence": 7}, ["tokens_per_sequence=7", "num_train=100", "divisor"]),
        (
            {
                "tokens_per_sequence": 5,
                "ridge": [0, "optimal"],
                "hmm": MOVING_START,
            },
            ["ridge=optimal", "tokens_per_sequence=5", "not stationary", "give numbers"],
        ),
        (
            {
                "tokens_per_sequence": 5,
                "ridge": ["optimal"],
                "representation": RepresentationConfig(name=RepresentationName.context_window, window=3),
            },
            ["ridge=optimal", "tokens_per_sequence=5", "context_window", "minutes", "give numbers"],
        ),
        (
            {"tokens_per_sequence": 5, "replicates": 0, "hmm": MOVING_START},
            ["replicates=0", "tokens_per_sequence=5", "no theory", "give 2 or more"],
        ),
        (
            {
                "tokens_per_sequence": 5,
                "task": TaskConfig(name=TaskName.next_token),
                "representation": RepresentationConfig(name=RepresentationName.context_window, window=3),
            },
            ["task=next_token", "as wide as the model", "last_token"],
        ),
        (
            {
                "tokens_per_sequence": 5,
                "hmm": DiscreteConfig(),
                "widths": None,
                "representation": RepresentationConfig(name=RepresentationName.posterior),
            },
            ["tokens_per_sequence=5", "discrete", "context_length", "leave it out"],
        ),
        (
            {
                "tokens_per_sequence": 5,
                "hmm": MOVING_START,
                "representation": RepresentationConfig(name=RepresentationName.context_window, window=3),
            },
            ["representation=context_window", "tokens_per_sequence=5", "stationary start", "last_token"],
        ),
        (
            {"tokens_per_sequence": 5, "task": TaskConfig(name=TaskName.downstream_label)},
            ["task=downstream_label", "tokens_per_sequence=5", "next_token"],
        ),
        ({"snr": 2}, ["snr=2", "hmm.loading=identity", "leave it out"]),
        ({"representation": RepresentationConfig(window=3)}, ["representation.window=3", "context_window"]),
        ({"hmm": modes(), "context_length": 3}, ["context_length=3", "hmm.loading=gaussian"]),
        ({"tokens_per_sequence": 5, "num_test": 100}, ["num_test=100", "dependent rows", "leave it out"]),
        ({"curves": {"a": {"tokens_per_sequence": 5}}, "num_test": 100}, ["num_test=100", "curves.a"]),
        ({"hmm": modes(), "problems": 3}, ["problems=3", "hmm.loading=identity", "raise replicates"]),
        ({"problems": 0}, ["problems=0"]),
        ({"curves": {"a": {"task": {"decay": 1.5}}, "b": {}}}, ["curves.a", "task.decay=1.5", "task=downstream_label"]),
        ({"population_sequences": 5000}, ["population_sequences=5000", "discrete HMMs"]),
        ({"hmm": LinearGaussianConfig(lowest_eigenvalue=0.2)}, ["hmm.lowest_eigenvalue=0.2", "symmetric"]),
        ({"head": LogisticOptions()}, ["head=logistic", "downstream_label", "head=linear"]),
        ({"hmm": modes(), "snr": 50}, ["snr=50", "at most"]),
        ({"hmm": None}, ["hmm is missing"]),
        ({"hmm": DiscreteConfig()}, ["representation=last_token", "posterior"]),
        ({"representation": RepresentationConfig(name=RepresentationName.posterior)}, ["representation=posterior"]),
        ({"representation": RepresentationConfig(num_features=20)}, ["representation.num_features=20", "200"]),
        (
            {"representation": RepresentationConfig(name=RepresentationName.context_window, window=4)},
            ["representation.window=4", "context_length"],
        ),
        (
            {"representation": RepresentationConfig(name=RepresentationName.kalman_state, observation_dim=3)},
            ["representation=kalman_state", "width 200", "state_dim is 50", "gammas up to 0.5"],
        ),
        ({"hmm": modes(), "task": TaskConfig(name=TaskName.next_token)}, ["task=next_token"]),
        (
            {"hmm": modes(), "representation": RepresentationConfig(size_map=SizeMap.random_projection)},
            ["representation.size_map=random_projection", "state_dim"],
        ),
        ({"curves": {"a": {"nope": 1}}}, ["curves.a", "nope"]),
        ({"curves": {"a": 3}}, ["curves.a=3"]),
        ({"figures": ["pie"]}, ["figures=pie", "excess_risk"]),
        ({"figures": ["downstream"]}, ["figures=downstream", "accuracy", "prediction_risk"]),
        (
            {
                "figures": ["dependence"],
                "gammas": shipped_keys()["gammas"],
                "hmm": DiscreteConfig(),
                "representation": RepresentationConfig(name=RepresentationName.posterior),
            },
            ["figures=dependence", "theory_independent_rows"],
        ),
    ],
)
def test_a_combination_without_a_problem_is_refused(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        expand(config(**fields))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"spectral_radius": 1.0}, "spectral_radius=1.0"),
        ({"spectral_radius": float("nan")}, "spectral_radius=nan"),
        ({"state_dim": 0}, "state_dim=0"),
        ({"state_dim": None}, "hmm.state_dim=null"),
        ({"state_noise": -1.0}, "state_noise=-1.0"),
        ({"transition": Transition.general}, "hmm.state_noise=null"),
        ({"transition": Transition.symmetric, "lowest_eigenvalue": 0.9}, "hmm.lowest_eigenvalue=0.9"),
    ],
)
def test_a_state_without_a_law_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word.replace(".", r"\.")):
        LinearGaussianConfig(**fields)
