"""A model from a file is the one that numpy wrote; a file that holds none is refused in one line."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core import resources
from lab.core.errors import ConfigError
from lab.experiments.hmm_risk.config import (
    FileConfig,
    HmmRiskConfig,
    RepresentationConfig,
    RepresentationName,
    Start,
    TaskConfig,
    TaskName,
)
from lab.experiments.hmm_risk.grid.cell import digests
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.own_hmm import OwnDiscrete, read_hmm
from lab.experiments.hmm_risk.pool import build_work

RNG = np.random.default_rng(0)
GAUSSIAN: dict[str, Any] = {
    "transition": np.diag([0.9, 0.5, -0.3]),
    "loading": RNG.standard_normal((40, 3)),
    "state_noise_covariance": np.diag([0.2, 0.5, 1.0]),
}
DISCRETE: dict[str, Any] = {
    "start": np.full(4, 0.25),
    "transition": RNG.dirichlet(np.ones(4), size=4),
    "emission": RNG.dirichlet(np.ones(6), size=4),
}


def written(folder: Path, arrays: dict[str, Any]) -> str:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return str(path)


def config(path: str, start: Start | None = None, **fields: Any) -> HmmRiskConfig:
    settings = {"num_train": 20, "widths": [5, 30], "figures": [], "hmm": FileConfig(path=path, start=start)} | fields
    return HmmRiskConfig(**settings)


def test_risks_are_those_of_the_arrays(tmp_path: Path) -> None:
    (cell,) = expand(config(written(tmp_path, GAUSSIAN), observation_noise=0.7))
    rows = build_work(cell).theory()
    covariance = np.diag([0.2 / (1 - 0.81), 0.5 / 0.75, 1 / 0.91])
    for row in rows:
        loading = GAUSSIAN["loading"][: row["width"]]
        sigma = loading @ covariance @ loading.T + 0.49 * np.eye(row["width"])
        cross = loading @ covariance @ GAUSSIAN["transition"].T
        explained = np.trace(cross.T @ np.linalg.solve(sigma, cross))
        assert row["noise_floor"] == pytest.approx((np.trace(covariance) - explained) / 3, rel=1e-10)  # type: ignore[typeddict-item]


def test_noise_of_the_file_is_the_noise_of_the_problem(tmp_path: Path) -> None:
    path = written(tmp_path, GAUSSIAN | {"observation_noise": 0.3})
    (cell,) = expand(config(path))
    assert cell.observation_noise == 0.3
    with pytest.raises(ConfigError, match=r"observation_noise=0\.7: only problems with noise that neither"):
        expand(config(path, observation_noise=0.7))


@pytest.mark.parametrize("radius", [1.0, 1.05])
def test_a_stated_start_needs_no_stationary_distribution(tmp_path: Path, radius: float) -> None:
    walk = GAUSSIAN | {"transition": radius * np.eye(3)}
    with pytest.raises(ConfigError, match="no stationary distribution to start from; add the array initial_covariance"):
        expand(config(written(tmp_path, walk)))
    by_file = expand(config(written(tmp_path, walk | {"initial_covariance": np.eye(3)}), context_length=4))
    by_key = expand(config(written(tmp_path, walk), Start.identity, context_length=4))
    for (cell,) in (by_file, by_key):
        work = build_work(cell)
        (row, _), (measured, _) = work.theory(), work.measure(0)
        last = radius**8 * np.eye(3)
        for step in range(4):
            last = last + radius ** (2 * step) * GAUSSIAN["state_noise_covariance"]
        # the state after the context
        assert row["null_risk"] == pytest.approx(np.trace(last) / 3, rel=1e-12)  # type: ignore[typeddict-item]
        assert np.isfinite(measured["variance"])  # type: ignore[typeddict-item]
    (several,) = expand(config(written(tmp_path, walk), Start.identity, tokens_per_sequence=5))
    (row, _), (measured, _) = build_work(several).theory(), build_work(several).measure(0)
    assert np.isnan(row["theory_excess_risk"])  # type: ignore[typeddict-item]
    assert measured["bias"] + measured["variance"] > 0  # type: ignore[typeddict-item]
    with pytest.raises(ConfigError, match=r"hmm\.start=identity too; leave one out"):
        expand(config(written(tmp_path, walk | {"initial_covariance": np.eye(3)}), Start.identity))


def test_a_state_that_noise_reaches_in_one_direction_only_has_a_risk(tmp_path: Path) -> None:
    chain = np.array([[0.5, 0.0], [0.0, 0.3]])
    arrays = GAUSSIAN | {
        "transition": chain,
        "loading": GAUSSIAN["loading"][:, :2],
        "state_noise_covariance": np.diag([1.0, 0.0]),
    }
    (cell,) = expand(config(written(tmp_path, arrays)))
    only = arrays | {
        "transition": chain[:1, :1],
        "loading": arrays["loading"][:, :1],
        "state_noise_covariance": np.ones((1, 1)),
    }
    (alone,) = expand(config(written(tmp_path, only)))
    for row, expected in zip(build_work(cell).theory(), build_work(alone).theory(), strict=True):
        # two outputs, of which one is always zero
        assert 2 * row["theory_excess_risk"] == pytest.approx(expected["theory_excess_risk"], rel=1e-9)  # type: ignore[typeddict-item]


def test_features_of_the_filter_name_the_key_that_asks_for_tokens(tmp_path: Path) -> None:
    path = written(tmp_path, GAUSSIAN | {"loading": GAUSSIAN["loading"][:5]})
    filtered = RepresentationConfig(name=RepresentationName.kalman_state, observation_dim=20)
    with pytest.raises(
        ConfigError, match=r"representation\.observation_dim=20: loading in .* has 5 rows; give up to 5"
    ):
        expand(config(path, widths=[1, 3], context_length=10, representation=filtered))


def test_a_discrete_model_in_float32_has_rows_that_sum_to_one(tmp_path: Path) -> None:
    single = {name: table.astype(np.float32) for name, table in DISCRETE.items()}
    single["transition"] *= np.float32(1 + 5e-7)
    own = read_hmm(FileConfig(path=written(tmp_path, single)))
    assert isinstance(own, OwnDiscrete)
    for rows, table in zip(own.tables, DISCRETE.values(), strict=True):
        np.testing.assert_allclose(rows, table, rtol=1e-6)
        np.testing.assert_allclose(rows.sum(axis=-1), 1, rtol=1e-15)
    with pytest.raises(ConfigError, match="must sum to 1 within 1e-08"):
        read_hmm(FileConfig(path=written(tmp_path, {name: table.astype(float) for name, table in single.items()})))


def test_a_discrete_model_has_the_posteriors_of_its_tables(tmp_path: Path) -> None:
    (cell,) = expand(
        config(
            written(tmp_path, DISCRETE),
            widths=None,
            gammas=[0.05, 0.1],
            representation=RepresentationConfig(name=RepresentationName.lifted_posterior),
            task=TaskConfig(name=TaskName.next_token),
            population_sequences=2000,
            context_length=3,
        )
    )
    (row, _) = build_work(cell).theory()
    assert row["num_outputs"] == 6
    assert 0 < row["noise_floor"] < 1  # type: ignore[typeddict-item]


def test_another_content_is_another_digest(tmp_path: Path) -> None:
    first = digests(expand(config(written(tmp_path, GAUSSIAN))))
    second = digests(expand(config(written(tmp_path, GAUSSIAN | {"transition": np.diag([0.9, 0.5, -0.2])}))))
    assert first.keys() == second.keys() == {str(tmp_path / "own.npz")}
    assert first != second


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"loading": None}, "loading is missing; add it"),
        ({"transitoin": np.eye(3)}, "transitoin: unknown array; leave it out, the file may hold transition, loading"),
        ({"transition": np.eye(3)[:2]}, r"transition has shape \(2, 3\) but must be square"),
        ({"transition": np.diag([0.9, np.nan, 0.1])}, r"transition\[1, 1\]=nan must be finite"),
        ({"transition": np.eye(3).astype(str)}, "transition has dtype <U"),
        ({"loading": np.ones((40, 2))}, r"loading has shape \(40, 2\) but must have shape \(any, 3\)"),
        ({"loading": np.ones((10, 3))}, "loading has 10 rows, and tokens of 30 features are asked for"),
        ({"state_noise_covariance": -np.eye(3)}, "state_noise_covariance has the eigenvalue -1"),
        ({"state_noise_covariance": np.triu(np.ones((3, 3)))}, "state_noise_covariance differs from its transpose"),
        ({"initial_covariance": np.eye(2)}, r"initial_covariance has shape \(2, 2\)"),
        ({"observation_noise": 0.0}, "observation_noise=0 must be positive"),
        ({"observation_noise": np.ones(2)}, r"observation_noise has shape \(2,\)"),
        ({"loading": 1e9 * np.ones((40, 3))}, "beside features of size .* risks are right to eight digits from"),
        (
            {"observation_noise": 1e200},
            r"noise=1e\+200 are not from 1e-20 to 1e\+20, .* divide loading and obs.* by 1e\+200",
        ),
        (
            {"loading": 1e-180 * GAUSSIAN["loading"], "observation_noise": 1e-180},
            r"observation_noise=1e-180 are not from 1e-20 to 1e\+20",
        ),
        (
            {"loading": 1e90 * GAUSSIAN["loading"], "observation_noise": 1e89},
            r"features of size .*e\+90 with observation_noise=1e\+89 are not from 1e-20 to 1e\+20",
        ),
    ],
)
def test_a_linear_gaussian_model_without_a_law_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    merged = {name: value for name, value in (GAUSSIAN | arrays).items() if value is not None}
    with pytest.raises(ConfigError, match=message) as error:
        expand(config(written(tmp_path, merged)))
    assert "own.npz: " in str(error.value) or "in hmm.path=" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"start": np.full(4, 0.3)}, "start sums to 1.2"),
        ({"transition": np.full((4, 4), 0.2)}, "row 0 of transition sums to 0.8"),
        ({"emission": np.full((3, 4), 0.25)}, r"emission has shape \(3, 4\)"),
        ({"emission": -DISCRETE["emission"]}, "is a negative probability"),
        ({"start": None}, "start is missing"),
        ({"loading": np.ones((3, 3))}, "loading: unknown array"),
    ],
)
def test_a_discrete_model_without_a_law_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    merged = {name: value for name, value in (DISCRETE | arrays).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        expand(config(written(tmp_path, merged), widths=None, gammas=[0.1]))


def test_a_file_without_arrays_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    with pytest.raises(ConfigError, match=r"own\.npz: cannot be read \(No such file or directory\); give an .npz file"):
        expand(config(str(path)))
    with pytest.raises(ConfigError, match="cannot be read"):
        expand(config(str(tmp_path)))
    np.savez(path, **GAUSSIAN)
    whole = path.read_bytes()
    contents = {"empty": b"", "text": b"transition = 3", "cut": whole[: len(whole) // 2], "pickle": pickle.dumps(3)}
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"own\.npz: cannot be read as an .npz file of numbers"):
            expand(config(str(path)))
    # one flipped byte inside an array: the checksum of the archive tells
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 255]) + whole[301:])
    with pytest.raises(ConfigError, match=r"own\.npz: "):
        expand(config(str(path)))
    np.savez(path, **(GAUSSIAN | {"transition": np.array([[{}]], dtype=object)}))
    with pytest.raises(ConfigError, match=r"npz file of numbers \(Object arrays cannot be loaded"):
        expand(config(str(path)))
    np.save(tmp_path / "one.npy", np.eye(3))
    with pytest.raises(ConfigError, match=r"one\.npy: holds one array without a name"):
        expand(config(str(tmp_path / "one.npy")))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.npz")
    with pytest.raises(ConfigError, match="it is a pipe; give a file"):
        expand(config(str(tmp_path / "own.npz")))


def test_arrays_beyond_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, GAUSSIAN)
    monkeypatch.setattr(resources, "available_memory", lambda: 2 * Path(path).stat().st_size - 1)
    with pytest.raises(ConfigError, match=r"hmm\.path=\S+own\.npz: needs about .* give a smaller file"):
        expand(config(path))
    # a header that claims more than there is, or than any machine has
    for shape in ((10**6, 10**7), (10**9, 10**10)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
            archive.writestr("transition.npy", header.getvalue())
        monkeypatch.undo()
        with pytest.raises(ConfigError, match=r"bomb\.npz: cannot be read as an \.npz file of numbers"):
            expand(config(str(tmp_path / "bomb.npz")))
