"""From attention to Mamba-2 (mmMamba, arXiv 2502.13145)."""

from lab.core.runs.sinks import sink_names
from lab.experiments.key_help import KeyGroup, help_of_keys, options_with_keys
from lab.experiments.spec import Experiment, options_of_group

_SUMMARY = "Distil a vision-language Transformer into a linear-time model."

_HELP = f"""Every attention layer of a frozen teacher is replaced by a linear-time mixer (Mamba-2 by default) whose
weights are initialised from the attention's own. Training has three stages: the parameters that are new in each mixer,
then the whole mixer, both layer by layer on the teacher's attention outputs; then the student end to end, on the
teacher's next-token distribution. Students are evaluated on held-out data next to the teacher, the teacher with images
ablated, the teacher with windowed attention, and chance. A run is one directory under outputs/distill/runs/.

\b
Groups (choose with GROUP=OPTION):
  teacher        (default: hovle_tiny)
                 {options_of_group("teacher", indent=17)}
  student        linear (default), hybrid (attention in a quarter of layers),
                 serving (a hybrid that lab export makes a stock model),
                 two_timescales (the same with two states a head)
  student/mixer  (default: mamba2)
                 {options_of_group("student/mixer", indent=17)}
  data           (default: picture_questions)
                 {options_of_group("data", indent=17)}
  recipe         tiny (default; for two cores), named_digits,
                 paper (as published: 20,000 steps per stage)
  experiment     distill/recovery, distill/smollm2, distill/t3_stages,
                 distill/t3_matched_steps, distill/t4_initialisation,
                 distill/t5_hybrid_count, distill/t6_placement,
                 distill/gate_order, distill/named_digits_gate_order,
                 distill/named_digits_initialisation,
                 distill/named_digits_stages,
                 distill/named_digits_timescales, distill/smollm2_served

\b
Keys [default] (those marked * take one value or a list [a,b]):
  stage         1, 2 or 3; all: these in one run; teacher: train a new teacher
  stages *      with stage=all, the stages to train [[1,2,3]]
  from_run      with stage=2 or 3, the run or student folder to start from
                [null: the newest finished run of the same teacher]
  stage_1, stage_2, stage_3, stage_teacher
                how each stage is trained: keys below, values by recipe
  teacher, student, data, prompt, evaluation
                keys below
  variants      several students in one run:
                '+variants={{LABEL:{{KEY:VALUE}}}}'
  replicates    number of students that differ in their random seed [1]
  figures *     layer_error, loss, accuracy, trade_off, students
                [the first three]
  title         title of the table, also shown by `lab runs`
  seed          random seed of data, initialisation and training [0]
  device        cpu, cuda, or auto: cuda if there is a GPU [auto]
  threads       number of torch threads [null: one per core]
  products      what computes the products of linear layers: torch, onednn,
                native (for 1 to 16 rows), packed, or auto: for large ones
                the fastest, measured once on a machine [auto]
  loader        where batches are made: inline (between the steps), process
                (ahead of them, in a separate process), or auto: process
                in a long training that leaves a core free, on a GPU or with
                fewer threads than cores [auto]
  loader_processes  separate processes that make the batches of a training:
                raise it where steps wait for large pictures [1]
  parallel      several processes, which torchrun or Slurm starts: keys below
  packing       whether the samples of a batch stand behind each other in
                one row, without padding [false]
  sinks *       where rows go besides metrics.jsonl:
                {", ".join(sink_names())} [[]]
  resume        a run to continue: its directory, or the end of its name
  resume_on     where a run may be resumed: same (only where it comes to the
                same last digits), or different (anywhere) [same]

GROUP_KEYS

--quiet prints the run's directory, always the last line, and nothing else.
--dry-run prints the run, or the points of a sweep, after the same checks, and starts nothing. A sweep that is typed
again skips finished points. --no-wait submits the points to Slurm and ends (docs/sweeps.md).
--plan=N prints what a run in N processes trains and what each of them holds, without a run; with --json as JSON.
Several processes: `torchrun --no-python lab distill parallel.strategy=ddp ...`; docs/several_processes.md.
Ctrl-C and the signals of a cluster write a checkpoint after the current step and end the run; a Slurm job is requeued.
Hydra's own flags work too: -m (sweep over keys or groups), --cfg job (print the configuration), --info,
hydra/launcher=slurm_gpu (submit the points of a sweep). `lab slurm script` prints a job script.

\b
Examples:
  lab distill stage=all
  lab distill stage=all student=hybrid student.hybrid.placement=head_stacked
  lab distill stage=1 stage_1.steps=500
  lab distill stage=2 from_run=RUN
  lab distill experiment=distill/t4_initialisation
"""

_CONFIG = "lab.experiments.distill.config"
_TEACHER = "lab.core.models"


def _help() -> str:
    mixers = options_with_keys("student.mixer.", "student/mixer", ["lab.core.mixers"], "{}_schema")
    data = options_with_keys("data.{}.", "data", ["lab.core.data", "lab.experiments.distill.tasks"], "{}")
    groups = [
        KeyGroup("stage_N.", f"{_CONFIG}:Recipe"),
        KeyGroup("student.", "lab.experiments.distill.student:StudentConfig", "student"),
        *mixers,
        KeyGroup("data.", "lab.experiments.distill.data_sources:DataSources"),
        *data,
        KeyGroup("prompt.", "lab.experiments.distill.data:PromptConfig"),
        KeyGroup("evaluation.", f"{_CONFIG}:EvaluationConfig"),
        KeyGroup("teacher.", f"{_TEACHER}.families:TeacherBase", "teacher"),
        KeyGroup("teacher.FAMILY.", f"{_TEACHER}.config:DecoderConfig"),
        KeyGroup("parallel.", "lab.core.parallel.config:ParallelConfig"),
        KeyGroup("teacher.hovle.vision.", f"{_TEACHER}.config:VisionConfig"),
    ]
    return f"{_SUMMARY}\n\n{_HELP.replace('GROUP_KEYS', help_of_keys(groups))}"


SPEC = Experiment(
    command="distill",
    config="distill",
    register="lab.experiments.distill.config:register",
    check="lab.experiments.distill.job:check",
    content="lab.experiments.distill.job:recorded_config",
    job="lab.experiments.distill.job:run",
    schema=f"{_CONFIG}:DistillConfig",
    recorded="lab.experiments.distill.recorded:STUDY",
    findings="lab.experiments.distill.claims:findings",
    summary=_SUMMARY,
    help=_help,
    plan="lab.experiments.distill.plan:print_plan",
    is_shared=True,
)
