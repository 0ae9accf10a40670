"""Risk of head tuning against model size (Luo, Wang and Huang, arXiv 2410.00699)."""

import textwrap

from lab.core.runs.sinks import sink_names
from lab.experiments.hmm_risk.results.figures import figure_names
from lab.experiments.key_help import KeyGroup, help_of_keys, options_with_keys
from lab.experiments.spec import Experiment

_SUMMARY = "Measure the risk of head tuning as a function of model size."

_HELP = """A frozen language model is modelled as a hidden Markov model that passes a representation of p numbers to a
linear head, which is fitted on n rows. The sweep draws rows, computes the exact risk of the minimum-norm (or ridge)
head given them, and compares it with random-matrix theory. A run is one directory under outputs/hmm_risk/runs/.

\b
Groups (choose with GROUP=OPTION):
  hmm             orthogonal_modes (default: the state grows with the model),
                  symmetric_modes; with a state of fixed size: orthogonal,
                  symmetric, general; discrete: dirichlet, permutations;
                  your own: file (hmm.path=FILE.npz, docs/own_hmm.md)
  representation  last_token (default), context_window, kalman_state;
                  discrete: posterior, next_token_distribution,
                  lifted_posterior
  task            next_state (default), next_token, downstream_label
  head            linear (default); logistic, for classes of a discrete hmm
  experiment      hmm_risk/f01_headline and one for each other figure;
                  hmm_risk/all for all of them

\b
Keys [default] (those marked * take one value or a list [a,b,c]):
  num_train *            n, number of training rows [200]
  gammas *               model sizes p/n [0.05 ... 5]
  widths *               model sizes p, instead of gammas [null]
  tokens_per_sequence *  rows drawn from one sequence; above 1 they are
                         dependent [1]
  context_length *       tokens read before the predicted one [1]
  observation_noise *    standard deviation of the representation's own noise
                         [0.288 ... 1.307]
  snr *                  signal-to-noise ratio, instead of observation_noise
                         [null]
  ridge *                strengths lambda, as in n lambda I; `optimal` is
                         allowed [0]
  problems               number of draws of the problem: A, W, E, the
                         labelling [1]
  replicates             number of draws of the training rows of each problem;
                         0: theory alone [20]
  num_test               test rows for a Monte-Carlo check of the exact risk
                         [null: none]
  rank_tolerance         singular values below this fraction of the largest
                         count as zero [null: rounding]
  population_sequences   with a discrete hmm, sequences that estimate its
                         second moments [100000]
  per_output             divide risks by the number of outputs [true]
  curves                 several problems in one figure:
                         '+curves={LABEL:{KEY:VALUE}}'
FIGURES
  title                  title of the table, also shown by `lab runs`
  seed                   random seed [0]
  workers                number of processes [null: one per core]
SINKS
  resume                 a run to continue: its directory, or the end of its
                         name; with more problems or replicates, or other
                         figures, beside it
  resume_on              where a run may be resumed: same (only where it comes
                         to the same last digits), or different [same]

GROUP_KEYS

--quiet prints the run's directory, always the last line, and nothing else.
--dry-run prints the run, or the points of a sweep, after the same checks, and starts nothing. A sweep that is typed
again skips finished points. --no-wait submits the points to Slurm and ends (docs/sweeps.md).
Hydra's own flags work too: -m (sweep over keys or groups), --cfg job (print the configuration), --info,
hydra/launcher=slurm_cpu (submit the points of a sweep).

\b
Examples:
  lab hmm-risk sweep
  lab hmm-risk sweep hmm=orthogonal num_train=200 'widths=[20,100,180,400]'
  lab hmm-risk sweep experiment=hmm_risk/f06_ridge replicates=10
"""

_WIDTH, _INDENT = 78, 25

# beside resume=RUN: more of them is more work, and these are read at the end only
GROWS, FREE = frozenset({"problems", "replicates"}), frozenset({"figures", "title"})


def _listed(key: str, names: list[str], default: str, meaning: str = "") -> str:
    """A key that takes a list of names, in the columns of the help."""
    words = f"{meaning}{', '.join(names)} [{default}]"
    return textwrap.fill(words, _WIDTH, initial_indent=f"  {key}".ljust(_INDENT), subsequent_indent=" " * _INDENT)


_SINKS = _listed("sinks *", sink_names(), "[]", "where rows go besides metrics.jsonl: ")
_FIGURES = _listed("figures *", figure_names(), "excess_risk, bias_variance, total_risk")

_CONFIG = "lab.experiments.hmm_risk.config"
_GROUPS = (
    KeyGroup("hmm.", f"{_CONFIG}:LinearGaussianConfig", "hmm", "linear_gaussian_schema"),
    KeyGroup("hmm.", f"{_CONFIG}:DiscreteConfig", "hmm", "discrete_schema"),
    KeyGroup("hmm.", f"{_CONFIG}:FileConfig", "hmm", "file_schema"),
    KeyGroup("representation.", f"{_CONFIG}:RepresentationConfig", "representation"),
    KeyGroup("task.", f"{_CONFIG}:TaskConfig", "task"),
)


def _help() -> str:
    heads = options_with_keys("head.", "head", ["lab.experiments.hmm_risk.heads"], "{}_head_schema")
    keys = help_of_keys([*_GROUPS, *heads])
    text = _HELP.replace("FIGURES", _FIGURES).replace("SINKS", _SINKS).replace("GROUP_KEYS", keys)
    return f"{_SUMMARY}\n\n{text}"


SPEC = Experiment(
    command="hmm-risk sweep",
    config="hmm_risk",
    register="lab.experiments.hmm_risk.config:register",
    check="lab.experiments.hmm_risk.job:check",
    content="lab.experiments.hmm_risk.job:recorded_config",
    job="lab.experiments.hmm_risk.job:run",
    schema=f"{_CONFIG}:HmmRiskConfig",
    recorded="lab.experiments.hmm_risk.results.recorded:STUDY",
    findings="lab.experiments.hmm_risk.results.claims:findings",
    summary=_SUMMARY,
    help=_help,
    grows=GROWS,
    free=FREE,
)
