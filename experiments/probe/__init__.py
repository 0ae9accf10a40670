"""Probe: linear heads on given features or on the states of models: measured, predicted and explained."""

from lab.core.runs.sinks import sink_names
from lab.experiments.key_help import KeyGroup, help_of_keys, options_with_keys
from lab.experiments.spec import Experiment, options_of_group

_SUMMARY = "Measure and predict the risk of heads on real features."

_HELP = f"""How large should a frozen representation be when only a linear head on it is trained? For widths p and
numbers of rows n, the table has the risk of heads over draws of the training rows, with intervals, beside theory: the
deterministic equivalent of Gaussian rows, of rows whose scale varies (elliptical), and of rows like the measured ones,
near-copies among them (empirical). Estimates and choices of width and ridge come from training rows alone. A run is
one directory under outputs/probe/runs/.

\b
Rows:
  features=FILE          .npy, .npz, .parquet or .safetensors (docs/probe.md)
  model=MODEL            states of a checkpoint folder, a GGUF file, shipped,
                         RUN or RUN@STAGE:VARIANT:REPLICATE; computed once
  run=RUN                states of the teacher, the untrained student and
                         every finished stage of a run of `lab distill`

\b
Groups:
  data           what models read [text]
                 {options_of_group("data", indent=17)}
  experiment     {options_of_group("experiment/probe", indent=17)}

GROUP_KEYS

\b
  resume         a run to continue: its directory, or the end of its name
  resume_on      where a run may be resumed: same (only where it comes to the
                 same last digits), or different (anywhere) [same]
  sinks          among {", ".join(sink_names())}

--quiet prints the run's directory, always the last line, and nothing else. --dry-run prints the run, or the points of
a sweep, after the same checks, and starts nothing; --no-wait submits points to Slurm and ends (docs/sweeps.md).
Hydra's own flags work too: --cfg job
(print the configuration), -m (sweep over keys), hydra/launcher=slurm_cpu.

\b
Examples:
  lab probe features=states.npz num_train=200
  lab probe model=SmolLM2.gguf 'layers=[5,15,25]' num_contexts=1000
  lab probe run=RUN 'layers=[2,4,6,8]' 'figures=[layers]'
  lab probe experiment=probe/causes model=SmolLM2.gguf 'layers=[10]'
"""


def _help() -> str:
    groups = [
        KeyGroup("", "lab.experiments.probe.config:ProbeConfig"),
        *options_with_keys("data.{}.", "data", ["lab.core.data", "lab.experiments.distill.tasks"], "{}"),
    ]
    return f"{_SUMMARY}\n\n{_HELP.replace('GROUP_KEYS', help_of_keys(groups))}"


SPEC = Experiment(
    command="probe",
    config="probe",
    register="lab.experiments.probe.config:register",
    check="lab.experiments.probe.job:check",
    content="lab.experiments.probe.job:recorded_config",
    job="lab.experiments.probe.job:run",
    schema="lab.experiments.probe.config:ProbeConfig",
    recorded="lab.experiments.probe.recorded:STUDY",
    findings="lab.experiments.probe.claims:findings",
    summary=_SUMMARY,
    help=_help,
    free=frozenset({"figures"}),
)
