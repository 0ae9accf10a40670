"""The configuration of `lab hmm-risk sweep`: one dataclass per configuration group, validated on its own."""

from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_options_resolver, register_schema
from lab.core.list_keys import settle_lists
from lab.core.ranges import LARGEST_COUNT, LARGEST_SEED, refuse_outside
from lab.core.runs.attempts import ResumeOn
from lab.core.runs.sinks import refuse_unknown
from lab.experiments.hmm_risk import heads
from lab.experiments.hmm_risk.heads.linear import LinearOptions
from lab.experiments.hmm_risk.key_checks import (
    as_list,
    check_ridge,
    check_sizes,
    grid_values,
    is_number,
    is_whole,
    refuse_unless,
)

# standard deviations beside states and features of unit variance: below, rounding of the features hides the noise in
# them, and risks have fewer than eight digits (tests/core/heads/test_small_noise.py)
SMALLEST_NOISE, LARGEST_NOISE = 1e-6, 1e6
# the same where the square of the noise is one term of a sum
SMALLEST_SUMMED_NOISE = 1e-3
_SMALLEST_SNR, _LARGEST_SNR = 1e-9, 1e9

# more than the cores of any machine
_MOST_WORKERS = 1024


class Transition(Enum):
    """The family of the transition matrix A."""

    orthogonal = "orthogonal"
    symmetric = "symmetric"
    general = "general"


class Loading(Enum):
    """How the state becomes a representation: W with entries N(0, 1/q), or one feature per state coordinate."""

    gaussian = "gaussian"
    identity = "identity"


class Start(Enum):
    """The distribution of the first state: N(0, I) as in the paper, or the stationary one."""

    identity = "identity"
    stationary = "stationary"


class Generator(Enum):
    """How a discrete HMM is drawn: Dirichlet rows, or the mixture of permutations of Wei, Xie and Ma."""

    dirichlet = "dirichlet"
    permutations = "permutations"


class RepresentationName(Enum):
    """The representation that the frozen model passes to the head."""

    last_token = "last_token"
    context_window = "context_window"
    kalman_state = "kalman_state"
    posterior = "posterior"
    next_token_distribution = "next_token_distribution"
    lifted_posterior = "lifted_posterior"


class SizeMap(Enum):
    """How a narrower model relates to a wider one: its first features, or random orthonormal directions."""

    nested = "nested"
    random_projection = "random_projection"


class TaskName(Enum):
    """The head's target."""

    next_state = "next_state"
    next_token = "next_token"
    downstream_label = "downstream_label"


@dataclass(kw_only=True, slots=True)
class LinearGaussianConfig:
    """The paper's data: z_{t+1} = A z_t + e_t, x_t = W z_t + u_t (arXiv 2410.00699)."""

    transition: Transition = Transition.orthogonal
    loading: Loading = Loading.gaussian
    state_dim: int | None = 50
    """q, dimension of the hidden state; null: the width of the representation (identity loading only)."""
    spectral_radius: float = 0.8
    """Largest modulus of A's eigenvalues, below 1."""
    lowest_eigenvalue: float = 0.05
    """Symmetric A: eigenvalues are evenly spaced between this and spectral_radius."""
    state_noise: float | None = None
    """Standard deviation of e_t; null: e_t ~ N(0, I - A A'), so that every state entry has unit variance."""
    start: Start = Start.stationary

    def __post_init__(self) -> None:
        refuse_outside(self, "state_dim", at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "spectral_radius", at_least=0, below=1, hint="the state needs a stationary distribution")
        refuse_outside(self, "lowest_eigenvalue", at_least=0, at_most=1)
        refuse_outside(self, "state_noise", at_least=SMALLEST_NOISE, at_most=LARGEST_NOISE)
        refuse_unless(
            0 <= self.lowest_eigenvalue <= self.spectral_radius or self.transition is not Transition.symmetric,
            "hmm.lowest_eigenvalue",
            self.lowest_eigenvalue,
            f"give a number between 0 and hmm.spectral_radius={self.spectral_radius}",
        )
        if self.transition is Transition.general and self.state_noise is None:
            raise ConfigError(
                "hmm.state_noise=null: unit state variance needs I - A A' positive, which a general A does not "
                "guarantee; give a standard deviation such as hmm.state_noise=0.6"
            )
        if self.loading is Loading.identity and self.transition is Transition.general:
            raise ConfigError("hmm.transition=general: identity loading needs modes; use orthogonal or symmetric")
        if self.loading is Loading.gaussian and self.state_dim is None:
            raise ConfigError("hmm.state_dim=null: only hmm.loading=identity grows with the width; give a number")

    @property
    def features_per_step(self) -> int:
        """Step of the number of features: two if the state grows by rotating planes, else one."""
        grows = self.loading is Loading.identity and self.state_dim is None
        return 2 if grows and self.transition is Transition.orthogonal else 1


@dataclass(kw_only=True, slots=True)
class DiscreteConfig:
    """A language as a discrete HMM: S hidden states, V tokens (Wei, Xie and Ma, arXiv 2106.09226)."""

    generator: Generator = Generator.dirichlet
    num_states: Any = 30
    """S, or a list of S."""
    num_tokens: int = 50
    """V."""
    transition_concentration: float = 1.0
    """Dirichlet parameter of the transition rows; smaller is closer to deterministic."""
    emission_concentration: float = 0.1
    """Dirichlet parameter of the emission rows; smaller is sharper."""
    start_temperature: float = 10.0
    """Softmax temperature of the initial distribution (permutations)."""
    transition_temperature: float = 0.05
    """Softmax temperature of the permutations' weights (permutations)."""
    emission_temperature: float = 0.1
    """Softmax temperature of the emission rows (permutations)."""

    def __post_init__(self) -> None:
        for size in as_list(self.num_states):
            refuse_unless(
                is_whole(size) and 1 <= size <= LARGEST_COUNT, "hmm.num_states", size, "give whole numbers of 1 or more"
            )
        refuse_outside(self, "num_tokens", at_least=1, at_most=LARGEST_COUNT)
        # beyond these, all rows are alike, or have one entry that is not zero
        refuse_outside(self, "transition_concentration", "emission_concentration", at_least=1e-3, at_most=1e6)
        temperatures = ("start_temperature", "transition_temperature", "emission_temperature")
        refuse_outside(self, *temperatures, at_least=1e-3, at_most=1e6)


@dataclass(kw_only=True, slots=True)
class FileConfig:
    """A hidden Markov model in a file, instead of a drawn one; `own_hmm` reads it."""

    path: str
    """An .npz file: transition, loading and state_noise_covariance, with initial_covariance and observation_noise where
    they are not left to the keys; or start, transition and emission of a discrete HMM."""
    start: Start | None = None
    """The distribution of the first state of a linear-Gaussian HMM; null: initial_covariance of the file, or the
    stationary one."""


@dataclass(kw_only=True, slots=True)
class RepresentationConfig:
    """The frozen language model: the representation that it passes to the head."""

    name: RepresentationName = RepresentationName.last_token
    window: int = 1
    """Tokens in a context window."""
    observation_dim: int | None = None
    """Kalman state: entries of each observed token x_t."""
    size_map: SizeMap = SizeMap.nested
    num_features: int | None = None
    """d, width of the full model, of which narrower ones are parts; null: the widest of the grid."""

    def __post_init__(self) -> None:
        refuse_outside(self, "num_features", "window", "observation_dim", at_least=1, at_most=LARGEST_COUNT)
        if self.name is RepresentationName.kalman_state:
            refuse_unless(
                self.observation_dim is not None,
                "representation.observation_dim",
                self.observation_dim,
                "the Kalman state needs the number of entries of a token; give 1 or more",
            )


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """The head's target."""

    name: TaskName = TaskName.next_state
    num_outputs: int = 1
    """Downstream label: entries of y = C z_T + noise (linear-Gaussian), or classes (discrete)."""
    decay: float = 0.0
    """Downstream label: the j-th state coordinate carries signal in proportion to j^-decay."""

    def __post_init__(self) -> None:
        refuse_outside(self, "num_outputs", at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "decay", at_least=0, at_most=100)


@dataclass(kw_only=True, slots=True)
class HmmRiskConfig:
    """`lab hmm-risk sweep`: problems, grids and number of draws."""

    # Any where a key takes a value or a list of them: OmegaConf has no type for that, so __post_init__ checks it
    title: str = ""
    """Title of the table, also shown by `lab runs`."""
    hmm: Any = None
    """LinearGaussianConfig, DiscreteConfig or FileConfig, chosen by the configuration group."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    head: Any = None
    """Options of one of the heads in heads/, chosen by the configuration group; null: the linear head."""

    num_train: Any = 400
    """n, training rows; or a list."""
    gammas: Any = None
    """Model sizes as gamma = p/n, one or a list; each is rounded to a whole width."""
    widths: Any = None
    """Model sizes p, one or a list, instead of gammas."""
    tokens_per_sequence: Any = 1
    """Rows per sequence; above 1 the rows are dependent. Or a list."""
    context_length: Any = 1
    """Tokens read before the predicted one (with one row per sequence); or a list."""
    observation_noise: Any = 0.5
    """Standard deviation of u_t; or a list."""
    snr: Any = None
    """tr B' Sigma B / tr Sigma_e; or a list. Sets the observation noise (state that grows with the width) or the label
    noise (downstream label)."""
    ridge: Any = field(default_factory=lambda: [0.0])
    """Strength lambda, or a list of them, of (X'X + n lambda I)^-1 X'Y; 0 is the minimum-norm head,
    `optimal` the best for each width."""
    problems: int = 1
    """Independent draws of the problem: A, W, E and the labelling. Each has its own draws of rows."""
    replicates: int = 20
    """Independent draws of the training rows of each problem; 0: theory alone."""
    num_test: int | None = None
    """Test rows for a Monte-Carlo check of the closed form at every width; null: no check."""
    population_sequences: int = 100_000
    """Discrete HMM: sequences from which the second moments are estimated."""
    rank_tolerance: float | None = None
    """Singular values below this fraction of the largest count as zero; null: max(n, p) times machine epsilon."""
    per_output: bool = True
    """Whether risks are divided by the number of outputs."""
    seed: int = 0
    workers: int | None = None
    """Number of processes; null: one per core."""

    resume_on: ResumeOn = ResumeOn.same
    """same: a run that is resumed where its last digits would be others is refused; different: that is only said."""
    sinks: Any = field(default_factory=list)
    """Sinks that receive the rows besides metrics.jsonl, by the names of their files in core/runs/sinks."""

    curves: dict[str, Any] = field(default_factory=dict)
    """Several problems in one run: for each label, the keys in which it differs from this configuration."""
    figures: Any = field(default_factory=lambda: ["excess_risk", "bias_variance", "total_risk"])

    def __post_init__(self) -> None:
        if self.hmm is None:
            raise ConfigError("hmm is missing: choose a configuration of the group, such as hmm=orthogonal")
        if self.head is None:
            self.head = LinearOptions()
        settle_lists(self, gammas=float, widths=int, sinks=str, figures=str)
        self.ridge = as_list(self.ridge)
        for key in ("num_train", "tokens_per_sequence", "context_length"):
            for value in grid_values(key, getattr(self, key)):
                is_count = is_whole(value) and 1 <= value <= LARGEST_COUNT
                refuse_unless(is_count, key, value, f"give whole numbers from 1 to {LARGEST_COUNT}")
        for value in grid_values("observation_noise", self.observation_noise):
            refuse_unless(
                is_number(value) and (value == 0 or SMALLEST_NOISE <= value <= LARGEST_NOISE),
                "observation_noise",
                value,
                f"give a standard deviation of 0, or from {SMALLEST_NOISE:g} to {LARGEST_NOISE:g}",
            )
        if self.snr is not None:
            for value in grid_values("snr", self.snr):
                is_ratio = is_number(value) and _SMALLEST_SNR <= value <= _LARGEST_SNR
                refuse_unless(is_ratio, "snr", value, f"give numbers from {_SMALLEST_SNR:g} to {_LARGEST_SNR:g}")
        refuse_outside(self, "problems", at_least=1, at_most=LARGEST_COUNT)
        refuse_outside(self, "replicates", at_least=0, at_most=LARGEST_COUNT)
        refuse_unless(
            self.replicates != 1 or self.problems > 1,
            "replicates",
            1,
            "a standard error needs two draws; give 2 or more, or more problems, or 0 for theory alone",
        )
        refuse_outside(self, "seed", at_least=0, at_most=LARGEST_SEED)
        refuse_outside(self, "workers", at_least=1, at_most=_MOST_WORKERS)
        refuse_outside(self, "num_test", at_least=2, at_most=LARGEST_COUNT)
        refuse_outside(self, "population_sequences", at_least=1000, at_most=LARGEST_COUNT)
        refuse_outside(self, "rank_tolerance", at_least=0, below=1)
        refuse_unknown(self.sinks)
        check_sizes(self.gammas, self.widths)
        check_ridge(self.ridge)

    def widths_at(self, num_train: int) -> tuple[int, ...]:
        """The widths p of the grid, ascending, for n rows; gammas are rounded to possible widths."""
        if self.widths is not None:
            return tuple(self.widths)
        return tuple(sorted(set(self.rounded(num_train).values())))

    def rounded(self, num_train: int) -> dict[float, int]:
        """The possible width of every gamma of the grid, for n rows."""
        assert self.gammas is not None, "checked in __post_init__"
        step = self.hmm.features_per_step if isinstance(self.hmm, LinearGaussianConfig) else 1
        return {gamma: step * max(1, round(gamma * num_train / step)) for gamma in self.gammas}


@cache
def register() -> None:
    """Store the schemas, so that Hydra refuses a misspelt key with its full path."""
    register_options_resolver()
    heads.register()
    register_schema("hmm_risk_schema", HmmRiskConfig)
    register_schema("linear_gaussian_schema", LinearGaussianConfig, group="hmm")
    register_schema("discrete_schema", DiscreteConfig, group="hmm")
    register_schema("file_schema", FileConfig, group="hmm")
