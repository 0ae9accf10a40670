"""Which combinations of keys a cell may have."""

from lab.core.errors import ConfigError
from lab.experiments.hmm_risk.config import (
    SMALLEST_NOISE,
    SMALLEST_SUMMED_NOISE,
    DiscreteConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationName,
    SizeMap,
    Start,
    TaskName,
    Transition,
)
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.heads import head_name
from lab.experiments.hmm_risk.key_checks import refuse_unless
from lab.experiments.hmm_risk.own_hmm import OwnGaussian, check_states

_GAUSSIAN = (RepresentationName.last_token, RepresentationName.context_window, RepresentationName.kalman_state)


def check_cell(cell: Cell) -> None:
    """Reject an invalid combination of keys.

    Raises:
        ConfigError: naming the key, its value and the fix.
    """
    names = [name.value for name in RepresentationName if (name in _GAUSSIAN) is not cell.is_discrete]
    refuse_unless(
        cell.representation.name.value in names,
        "representation",
        cell.representation.name.value,
        f"this hmm has the representations {', '.join(names)}",
    )
    if isinstance(cell.hmm, DiscreteConfig):
        _check_discrete(cell)
    else:
        _check_gaussian(cell, cell.hmm)
    _check_head(cell)
    refuse_unless(
        cell.problems == 1 or cell.draws_problem,
        "problems",
        cell.problems,
        f"nothing but the rows is random{_of_curve(cell)}, so all problems are the same: hmm.loading=identity and "
        "hmm=file draw no matrices; leave it at 1 there and raise replicates, or choose a hmm that is drawn",
    )
    if cell.replicates == 0:
        refuse_unless("accuracy" not in cell.quantities, "replicates", 0, "classes have no theory; give 2 or more")
    refuse_unless(
        cell.widths[-1] <= cell.num_features,
        "representation.num_features",
        cell.num_features,
        f"the grid asks for width {cell.widths[-1]}; give that or more",
    )


def _of_curve(cell: Cell) -> str:
    return f" in curves.{cell.curve}" if cell.curve else ""


def _check_head(cell: Cell) -> None:
    name, is_label = head_name(cell.head), cell.is_discrete and cell.task.name is TaskName.downstream_label
    refuse_unless(
        cell.head_spec.has_exact_risk or is_label,
        "head",
        name,
        "it learns classes only; choose a discrete hmm with task=downstream_label, or head=linear",
    )
    if cell.head_spec.needs_ridge:
        refuse_unless(
            0.0 not in cell.ridge, "ridge", 0, f"head={name} has no solution without one; give positive numbers"
        )


def _check_discrete(cell: Cell) -> None:
    refuse_unless(
        cell.tokens_per_sequence == 1,
        "tokens_per_sequence",
        cell.tokens_per_sequence,
        "rows of one sequence share hidden states, and only of Gaussian ones is the risk of such rows known exactly; "
        "leave it out with a discrete hmm, where context_length says how many tokens a row has read",
    )
    refuse_unless("optimal" not in cell.ridge, "ridge", "optimal", "a discrete HMM has no theory; give numbers")
    if cell.representation.name is RepresentationName.lifted_posterior:
        _needs_noise(cell, "lifting the posterior")
    if cell.task.name is TaskName.downstream_label:
        refuse_unless(cell.task.num_outputs >= 2, "task.num_outputs", cell.task.num_outputs, "give 2 classes or more")
        refuse_unless(
            cell.num_test is not None, "num_test", None, "accuracy is measured on test rows; give num_test=2000"
        )
    else:
        _has_no_test(cell, "the next state or token of a discrete HMM")


def _check_gaussian(cell: Cell, hmm: LinearGaussianConfig) -> None:
    name = cell.representation.name
    odd = [width for width in cell.widths if width % hmm.features_per_step]
    if odd:
        raise ConfigError(f"widths contains {odd[0]}: modes that rotate in planes come in pairs; give even widths")
    if hmm.loading is Loading.identity:
        if cell.snr is not None:
            _check_snr(cell, hmm)
        refuse_unless(
            name is RepresentationName.last_token, "representation", name.value, "identity loading has last_token only"
        )
        _check_identity_task(cell, hmm)
    else:
        _needs_noise(cell, "a Gaussian loading")
        if isinstance(hmm, OwnGaussian):
            _check_own(cell, hmm)
        else:
            _check_noise_beside_state(cell, hmm)
    if name is RepresentationName.context_window and cell.tokens_per_sequence == 1:
        refuse_unless(
            cell.representation.window <= cell.context_length,
            "representation.window",
            cell.representation.window,
            f"the context has {cell.context_length} tokens; raise context_length",
        )
    if name is RepresentationName.kalman_state:
        assert hmm.state_dim is not None, "only identity loading has no state_dim"
        if cell.widths[-1] > hmm.state_dim:
            raise ConfigError(
                f"representation=kalman_state: the grid asks for width {cell.widths[-1]}, and hmm.state_dim is "
                f"{hmm.state_dim}; give widths up to that, or gammas up to {hmm.state_dim / cell.num_train:g}"
            )
        num_observed = (cell.representation.observation_dim or 1) * cell.context_length
        refuse_unless(
            num_observed >= cell.num_features,
            "context_length",
            cell.context_length,
            f"{num_observed} numbers are observed, which determine as many directions of the state, not "
            f"{cell.num_features}; raise it or representation.observation_dim",
        )
    if name is not RepresentationName.last_token and cell.task.name is TaskName.next_token:
        raise ConfigError("task=next_token: a token as wide as the model needs representation=last_token")
    if cell.tokens_per_sequence > 1:
        _check_dependent(cell, hmm)


def _check_snr(cell: Cell, hmm: LinearGaussianConfig) -> None:
    assert cell.snr is not None, "the caller asks only then"
    if cell.task.name is TaskName.downstream_label:
        return
    grows = hmm.loading is Loading.identity and hmm.state_dim is None and hmm.transition is Transition.orthogonal
    if not grows:
        raise ConfigError(
            f"snr={cell.snr}: this problem's signal-to-noise ratio changes with the width; set observation_noise, "
            "or use hmm=orthogonal_modes or task=downstream_label"
        )
    largest = hmm.spectral_radius**2 / (1 - hmm.spectral_radius**2)
    refuse_unless(
        cell.snr <= largest, "snr", cell.snr, f"hmm.spectral_radius={hmm.spectral_radius} allows {largest:.4g} at most"
    )


def _check_identity_task(cell: Cell, hmm: LinearGaussianConfig) -> None:
    if hmm.state_dim is None:
        refuse_unless(
            cell.task.name is TaskName.next_state,
            "task",
            cell.task.name.value,
            "a state that grows has next_state",
        )
        refuse_unless(
            cell.representation.size_map is SizeMap.nested,
            "representation.size_map",
            cell.representation.size_map.value,
            "a state that grows has no full model to project; give hmm.state_dim",
        )
    else:
        refuse_unless(
            cell.task.name is TaskName.downstream_label,
            "task",
            cell.task.name.value,
            "identity loading with a fixed state_dim predicts a downstream_label",
        )
        refuse_unless(
            cell.num_features <= hmm.state_dim,
            "hmm.state_dim",
            hmm.state_dim,
            f"the model has {cell.num_features} features; give that or more",
        )


def _check_dependent(cell: Cell, hmm: LinearGaussianConfig) -> None:
    key = f"tokens_per_sequence={cell.tokens_per_sequence}"
    rows = cell.num_train
    if rows % cell.tokens_per_sequence:
        raise ConfigError(f"{key} does not divide num_train={rows}; give a divisor")
    is_window = cell.representation.name is RepresentationName.context_window
    if not is_window and cell.representation.name is not RepresentationName.last_token:
        raise ConfigError(
            f"representation={cell.representation.name.value}: with {key} a row is one token or a window of them; "
            "choose representation=last_token or context_window, or tokens_per_sequence=1"
        )
    if is_window and not _is_stationary(hmm):
        raise ConfigError(
            f"representation=context_window: with {key} windows need a stationary start; give one, or choose "
            "representation=last_token"
        )
    if cell.task.name is TaskName.downstream_label:
        raise ConfigError(
            f"task=downstream_label: a sequence has one label, and with {key} many rows; choose task=next_state or "
            "next_token, or tokens_per_sequence=1"
        )
    if cell.representation.size_map is not SizeMap.nested:
        raise ConfigError(f"{key}: dependent rows need representation.size_map=nested")
    if "optimal" in cell.ridge and is_window:
        raise ConfigError(
            f"ridge=optimal: with {key} and representation=context_window each step of the search inverts matrices of "
            "the model's size for every token, which takes minutes for each width; give numbers"
        )
    if "optimal" in cell.ridge and not _is_stationary(hmm):
        raise ConfigError(
            f"ridge=optimal: with {key} it is searched for in theory, which a start that is not stationary does not "
            "have; give numbers, or a stationary start"
        )
    if cell.replicates == 0 and not _is_stationary(hmm):
        raise ConfigError(
            f"replicates=0: with {key} a start that is not stationary has exact risks and no theory; give 2 or more, "
            "or a stationary start"
        )
    _needs_noise(cell, "dependent rows")
    _has_no_test(cell, "dependent rows")


def _is_stationary(hmm: LinearGaussianConfig) -> bool:
    """Whether all tokens of a sequence have the same distribution."""
    if isinstance(hmm, OwnGaussian):
        return hmm.hmm.is_stationary
    # where no size is given, the noise is such that the start's unit variances are stationary
    return hmm.start is Start.stationary or hmm.state_noise is None


def _has_no_test(cell: Cell, what: str) -> None:
    refuse_unless(
        cell.num_test is None,
        "num_test",
        cell.num_test,
        f"{what} cannot be checked on test rows{_of_curve(cell)}; leave it out there",
    )


def _check_own(cell: Cell, own: OwnGaussian) -> None:
    """Refuse more features than the file has, and states that are too large."""
    representation, num_rows = cell.representation, own.hmm.num_features
    if representation.name is RepresentationName.kalman_state:
        asked = representation.observation_dim or 1
        if asked > num_rows:
            raise ConfigError(
                f"representation.observation_dim={asked}: loading in hmm.path={own.path} has {num_rows} rows; give up "
                f"to {num_rows}, or a loading with more rows"
            )
    else:
        window = representation.window if representation.name is RepresentationName.context_window else 1
        asked = -(-max(cell.widths[-1], representation.num_features or 1) // window)
    if asked > num_rows:
        raise ConfigError(
            f"hmm.path={own.path}: loading has {num_rows} rows, and tokens of {asked} features are asked for; give "
            "smaller widths or gammas, or a loading with more rows"
        )
    check_states(own, max(cell.context_length, cell.tokens_per_sequence), cell.observation_noise, _smallest_noise(cell))


def _check_noise_beside_state(cell: Cell, hmm: LinearGaussianConfig) -> None:
    """Refuse noise that rounding of the features hides."""
    size = 1.0 if hmm.state_noise is None else hmm.state_noise / (1 - hmm.spectral_radius**2) ** 0.5
    share = _smallest_noise(cell)
    where = "" if share == SMALLEST_NOISE else "with a random projection, or a label of a Kalman state, "
    refuse_unless(
        cell.observation_noise >= share * size * (1 - 1e-9),
        "observation_noise",
        f"{cell.observation_noise:g}",
        f"{where}risks are right to eight digits from {share:g} times the size of the state, here {share * size:.3g}; "
        "give that or more",
    )


def _smallest_noise(cell: Cell) -> float:
    """The least noise whose risks are right to eight digits, as a share of the size of the state."""
    is_label = cell.task.name is TaskName.downstream_label
    is_sum = cell.representation.size_map is SizeMap.random_projection or (
        cell.representation.name is RepresentationName.kalman_state and is_label
    )
    return SMALLEST_SUMMED_NOISE if is_sum else SMALLEST_NOISE


def _needs_noise(cell: Cell, what: str) -> None:
    refuse_unless(
        cell.observation_noise > 0 or cell.snr is not None,
        "observation_noise",
        cell.observation_noise,
        f"{what} needs a positive standard deviation, so that the features have full rank",
    )
