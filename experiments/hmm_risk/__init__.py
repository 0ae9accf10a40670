"""Risk of head tuning against model size (Luo, Wang and Huang, arXiv 2410.00699)."""

import textwrap

from lab.experiments.hmm_risk.results.figures import figure_names
from lab.experiments.spec import Experiment

_HELP = """Measure the risk of head tuning against model size, with theory over it.

A frozen language model is a hidden Markov model that hands a representation of p numbers to a linear head, which is
solved on n rows. The sweep draws rows, computes the exact risk of the minimum-norm (or ridge) head given them, and
compares it with random-matrix theory. Everything is written to one directory under outputs/hmm_risk/runs/.

\b
Groups (choose with GROUP=OPTION):
  hmm             orthogonal_modes (default: the state grows with the model), symmetric_modes,
                  orthogonal, symmetric, general (state of fixed size); discrete: dirichlet, permutations
  representation  last_token, context_window, kalman_state;
                  discrete: posterior, next_token_law, lifted_posterior
  task            next_state, next_token, downstream_label
  head            linear (default); logistic, for classes of a discrete hmm
  experiment      hmm_risk/f01_headline and one for each other figure; hmm_risk/all runs every one

\b
Keys (those marked * take a number or a list [a,b,c]):
  num_train *            n, training rows                                            [200]
  gammas                 model sizes p/n, a list                                     [0.05 ... 5]
  widths                 model sizes p, a list; stands instead of gammas             [null]
  tokens_per_sequence *  rows from one sequence; above 1 they depend on each other   [1]
  context_length *       tokens read before the predicted one                        [1]
  observation_noise *    standard deviation of the representation's own noise        [0.288 ... 1.307]
  snr *                  signal over noise, instead of observation_noise             [null]
  ridge                  strengths lambda of n lambda I, a list; also `optimal`      [[0]]
  hmm.spectral_radius    of the transition, in [0, 1)                                [0.95]
  hmm.state_dim          q, entries of the state                                     [null: p]
  replicates             draws of the training rows                                  [20]
  num_test               test rows for a Monte-Carlo check of the closed form        [null: none]
  rank_tolerance         singular values below this share of the largest are zero    [null: rounding]
  population_sequences   discrete hmm: sequences behind its second moments           [100000]
  per_output             divide risks by the number of outputs                       [true]
  curves                 several problems in one figure: {label: {KEY: VALUE}}       [{}]
  figures                a list                          [excess_risk, bias_variance, total_risk] of
FIGURES
  title                  printed over the table and in `lab runs`
  seed                   of everything random                                        [0]
  workers                processes                                                   [null: one a core]
  resume                 a run to continue: its directory, or the end of its name

\b
Hydra's own flags work too: -m (sweep over keys or groups), --cfg job (print the configuration), --info,
hydra/launcher=slurm_cpu (submit the points of a sweep).

\b
Examples:
  lab hmm-risk sweep
  lab hmm-risk sweep hmm=orthogonal num_train=200 'widths=[20,40,100,160,220,400]' observation_noise=0.5
  lab hmm-risk sweep experiment=hmm_risk/f06_ridge replicates=10
"""

_FIGURES = textwrap.fill(
    ", ".join(figure_names()), width=110, initial_indent=" " * 25, subsequent_indent=" " * 25, break_on_hyphens=False
)

SPEC = Experiment(
    command="hmm-risk sweep",
    config="hmm_risk",
    register="lab.experiments.hmm_risk.config:register",
    check="lab.experiments.hmm_risk.job:check",
    job="lab.experiments.hmm_risk.job:run",
    help=_HELP.replace("FIGURES", _FIGURES),
)
