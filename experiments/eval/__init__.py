"""Evaluation of teachers and students: benchmarks, texts and multiple choice, in one table."""

from lab.core.runs.sinks import sink_names
from lab.experiments.eval.words import overrides_of
from lab.experiments.key_help import KeyGroup, help_of_keys
from lab.experiments.spec import Experiment

_SUMMARY = "Evaluate models on benchmarks and texts, in one table."

_HELP = f"""The words behind `lab eval` are models and tasks, in any order. Every model does every task; the table has
an interval for each score and, with against=TEACHER, paired differences from the teacher, the share of its skill above
chance, and the divergence of next tokens over the teacher's own answers. Answers are greedy. Each is recorded as it is
given: a run that was ended goes on at the next question (resume=RUN). A run is one directory under outputs/eval/runs/;
predictions/ in it holds the answers in VLMEvalKit's layout.

\b
Models:
  FOLDER, FILE.gguf      a teacher or an exported student
  shipped                the tiny teacher that comes with lab
  RUN                    a run of `lab distill`: its last finished stage
  RUN@STAGE:VARIANT:REPLICATE
                         another student of it; each part may be left out,
                         and * for REPLICATE names all of them, whose mean has
                         an interval over seeds

\b
Tasks:
  FILE.tsv               a benchmark in VLMEvalKit's layout, which its name
                         tells: MME, MMBench, POPE, SEEDBench_IMG, MMMU,
                         ScienceQA, TextVQA, GQA, MMVet
  BENCHMARK:FILE.tsv     a file with another name: mme, mmbench, pope,
                         seed_image, mmmu, scienceqa, textvqa, gqa, mm_vet
                         (answers are written for a judge, not scored), or
                         questions (your own, asked as they stand)
  likelihood:FILE.tsv    multiple choice by the likelihood of the options
  picture_questions:NUMBER
                         held-out questions of the task that ships [1024]
  easy_vqa:NUMBER        easy-VQA, of the package easy-vqa [all 9,673]
  text:PATH, text:python cross-entropy, perplexity and bits per byte of text
                         files, or of documentation that comes with Python

GROUP_KEYS

\b
  resume         a run to continue: its directory, or the end of its name
  resume_on      where a run may be resumed: same (only where it comes to the
                 same last digits), or different (anywhere) [same]
  sinks          among {", ".join(sink_names())}

--quiet prints the run's directory, always the last line, and nothing else. --dry-run prints the run, or the points of
a sweep, after the same checks, and starts nothing; --no-wait submits points to Slurm and ends (docs/sweeps.md).
Hydra's own flags work too: --cfg job
(print the configuration), -m (sweep over keys), hydra/launcher=slurm_gpu.

\b
Examples:
  lab eval shipped picture_questions:100
  lab eval RUN RUN@2 POPE.tsv MME.tsv against=hovle
  lab eval student likelihood:arc.tsv text:wiki.txt against=SmolLM2.gguf
"""


def _help() -> str:
    groups = [KeyGroup("", "lab.experiments.eval.config:EvalConfig")]
    return f"{_SUMMARY}\n\n{_HELP.replace('GROUP_KEYS', help_of_keys(groups))}"


SPEC = Experiment(
    command="eval",
    config="eval",
    register="lab.experiments.eval.config:register",
    check="lab.experiments.eval.job:check",
    content="lab.experiments.eval.job:recorded_config",
    job="lab.experiments.eval.job:run",
    schema="lab.experiments.eval.config:EvalConfig",
    recorded="lab.experiments.eval.recorded:STUDY",
    findings="lab.experiments.eval.claims:findings",
    summary=_SUMMARY,
    help=_help,
    words=overrides_of,
    free=frozenset({"figures"}),
)
