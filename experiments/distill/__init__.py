"""From attention to Mamba-2 (mmMamba, arXiv 2502.13145)."""

from lab.experiments.spec import Experiment

_HELP = """Turn a trained vision-language Transformer into a linear-time Mamba-2 model.

Every attention of a frozen teacher is replaced by a Mamba-2 mixer, seeded from the attention's own weights, and
trained in three stages: what is new in each mixer, then the whole mixer, both on the teacher's heads layer by layer,
then the student from tokens to logits on the teacher's next-token law. Everything is measured on held-out data, beside
the teacher, chance, the teacher without pictures and the teacher with a short memory, and written to one directory
under outputs/distill/runs/.

\b
Groups (choose with GROUP=OPTION):
  teacher     hovle_tiny (default: it ships), hovle_2p6b (needs teacher.path=FOLDER),
              llama (Llama, SmolLM2 or Qwen2, text only; needs teacher.path=FOLDER or a GGUF file),
              named_digits (for data=named_digits; stage=teacher trains it in a minute)
  student     linear (default), hybrid (one layer in four stays softmax attention)
  data        picture_questions (default: it ships), conversations (a JSONL file of yours), text (a folder of yours,
              or documentation that comes with Python), named_digits (it ships: the smallest problem)
  recipe      tiny (default: two cores), paper (the published one: 20,000 steps a stage), named_digits
  experiment  distill/t3_stages, distill/t3_matched_steps, distill/t4_initialisation,
              distill/t5_hybrid_count, distill/t6_placement: one table and one figure each;
              distill/recovery: linear and hybrid over three seeds; distill/smollm2: a pre-trained language model;
              distill/named_digits_initialisation, distill/named_digits_stages: t4 and t3 in minutes

\b
Keys:
  stage          1, 2, 3; all: these in one run; teacher: train a new one
  stages         stage=all: which of them, a list                               [[1,2,3]]
  from_run       stage=2, 3: the run, or a student's folder, to go on from        [null: the newest finished run]
  stage_1, stage_2, stage_3, stage_teacher: how each is trained, such as stage_2.KEY=VALUE with
                 steps, batch_size, accumulation, learning_rate, warmup, decay, weight_decay, gradient_clip,
                 autocast, loss_mask (all, non_padding, answers), evaluate_every, checkpoint_every;
                 stages 1 and 2: factor; stage 3: temperature, reduction (token, sequence), cross_entropy, train_decay
  teacher.path   a checkpoint folder; `shipped`: the trained copy of hovle_tiny; null: random weights
  student.initialisation     scratch, inherit, mimic                             [mimic]
  student.hybrid.placement   head_interleaved, tail_interleaved, head_stacked, tail_stacked, listed, none, all;
                             with student.hybrid.number or student.hybrid.layers
  prompt         system, max_tiles, max_length: how samples are written for the model
  evaluation     num_batches, batch_size, num_validation_batches, window, num_sinks
  variants       several students in one run: '+variants={LABEL:{KEY:VALUE}}'      [{}]
  replicates     students that differ in their random numbers                    [1]
  figures        a list: layer_error, loss, accuracy, trade_off, students        [the first three]
  title          printed over the table and in `lab runs`
  seed           of everything random                                            [0]
  device         cpu, cuda                                                       [auto]
  threads        of torch                                                        [null: one a core]
  resume         a run to continue: its directory, or the end of its name

\b Ctrl-C, SIGTERM and SIGUSR2 end a run after the current step, with a checkpoint. Hydra's own flags work too: -m
(sweep over keys or groups), --cfg job (print the configuration), --info, hydra/launcher=slurm_gpu (submit the points
of a sweep).

\b
Examples:
  lab distill stage=all
  lab distill stage=all student=hybrid student.hybrid.placement=head_stacked student.hybrid.number=2
  lab distill stage=1 stage_1.steps=500
  lab distill stage=2 from_run=RUN
  lab distill experiment=distill/t4_initialisation
"""

SPEC = Experiment(
    command="distill",
    config="distill",
    register="lab.experiments.distill.config:register",
    check="lab.experiments.distill.job:check",
    job="lab.experiments.distill.job:run",
    help=_HELP,
)
