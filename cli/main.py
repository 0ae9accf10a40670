"""The command `lab`: one leaf for each experiment, and the commands around them.

Nothing numeric is imported here, so that `lab --help` answers at once.
"""

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Annotated

import typer

from lab import experiments as studies
from lab.experiments.spec import Experiment

# One BLAS or OpenMP thread a process: with more, a busy machine is up to 100 times slower, since every small product
# waits for all threads to be scheduled. Who sets these keeps them. They count when numpy or torch is first imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# everything behind the command belongs to Hydra, flags included
_HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}

# which student of a run
_Stage = Annotated[int | None, typer.Option(min=0, max=3, help="The student after this stage, 0: its seed [the last].")]
_Variant = Annotated[str | None, typer.Option(help="The label of the student, in a run of several.")]
_Replicate = Annotated[int, typer.Option(min=0, help="Of the student's random numbers.")]

_EXPORT = """Write a distilled student as a checkpoint folder.

The folder has the layout of mmMamba's release: config.json says which layer is Mamba-2 and which attention, safetensors
hold the weights, and the teacher's tokenizer is copied beside them. Students of text models have the same layers in the
layout of Llama. The folder is complete or absent. `lab generate` and `lab distill from_run=` take it.

\b
Examples:
  lab export RUN mmmamba-tiny
  lab export RUN mmmamba-tiny-stage-2 --stage 2
  lab export RUN kept-softmax --variant head_stacked_2
"""

_GENERATE = """Answer a prompt, token by token.

Images are cut into tiles and prompts written as in training. Mamba-2 layers keep a state of constant size, attention a
cache for prompt and answer; what each takes is said at the end, on standard error, with the speed.

\b
Examples:
  lab generate shipped --prompt "How many pictures show a bag?" --image a.png
  lab generate RUN --prompt "<image> <image> How many pictures show a bag?" --image a.png --image b.png
  lab generate mmmamba-tiny --prompt "How many pictures show a bag?" --image a.png --temperature 0.7 --top-p 0.9
"""

app = typer.Typer(
    name="lab",
    help="Experiments on state-space models: the risk of head tuning (hmm-risk), attention into Mamba-2 (distill).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The console script."""
    app()


@app.command()
def runs(
    study: Annotated[str, typer.Option(help="Only this study, such as hmm_risk.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
) -> None:
    """List recorded runs, the newest first: status, age, main result."""
    from lab.cli.tables import print_runs

    print_runs(study, limit)


@app.command()
def show(run: Annotated[str, typer.Argument(help="A run's directory, or the end of its name.")]) -> None:
    """Print one run's table and verdict, and the paths of its figures."""
    from lab.cli.dispatch import one_line_errors
    from lab.cli.tables import print_run

    with one_line_errors():
        print_run(run)


@app.command(help=_EXPORT)
def export(
    run: Annotated[str, typer.Argument(help="A run of `lab distill`: its directory, or the end of its name.")],
    dest: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    stage: _Stage = None,
    variant: _Variant = None,
    replicate: _Replicate = 0,
) -> None:
    """Write a distilled student as a checkpoint folder."""
    from lab.cli.dispatch import one_line_errors

    with one_line_errors():
        finished = importlib.import_module("lab.experiments.distill.finished")
        written = importlib.import_module("lab.experiments.distill.export").main(
            run, dest, finished.Choice(stage, variant, replicate)
        )
    typer.echo(written)


@app.command(help=_GENERATE)
def generate(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a GGUF file, a run, or `shipped`.")],
    prompt: Annotated[str, typer.Option(help="The question; <image> marks where an image belongs.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="An image; once for each, in the order of the marks.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token, always.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from this many of the likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest that reach this probability.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where an answer ends at the latest.")] = 256,
    system: Annotated[str | None, typer.Option(help="System message; by default that of the training.")] = None,
    max_tiles: Annotated[int | None, typer.Option(min=1, help="Most tiles of an image; by default as trained.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The prompt as it is, without the chat format.")] = False,
    stage: _Stage = None,
    variant: _Variant = None,
    replicate: _Replicate = 0,
    precision: Annotated[str | None, typer.Option(help="bfloat16, float32, float64; by default as stored.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; by default one a core.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write answer and figures to this file.")] = None,
) -> None:
    """Answer a prompt."""
    from lab.cli.dispatch import one_line_errors

    with one_line_errors():
        distill = importlib.import_module("lab.experiments.distill.generate")
        request = distill.Request(
            model=model,
            choice=distill.Choice(stage, variant, replicate),
            prompt=prompt,
            images=image or [],
            is_raw=raw,
            system=system,
            max_tiles=max_tiles,
            sampling=distill.SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p),
            seed=seed,
            max_new_tokens=max_new_tokens,
            precision=precision,
            device=device,
        )
        distill.main(request, threads=threads, json_path=json)


@app.command()
def doctor() -> None:
    """Say what this machine can run, and the command that adds what is missing."""
    from lab.cli.doctor import print_report

    print_report()


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="What to time: hmm-risk, ssd, delta-rule or distill.")],
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the candidates take turns.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: a check that everything runs.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the result to this file, figures beside it.")] = None,
) -> None:
    """Time our solvers, operators and training steps beside their peers, in one process, after comparing results."""
    from lab.cli.dispatch import one_line_errors

    with one_line_errors():
        run = importlib.import_module("lab.experiments.bench.run")
        run.main(name, repeats=repeats, quick=quick, json_path=json)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"lab {installed('ssm-lab')}")


def found_experiments() -> list[Experiment]:
    """The SPEC of every study, by listing the folder experiments/."""
    names = sorted(module.name for module in pkgutil.iter_modules(studies.__path__) if module.ispkg)
    modules = [importlib.import_module(f"lab.experiments.{name}") for name in names]
    return [module.SPEC for module in modules if hasattr(module, "SPEC")]


def _add(experiment: Experiment) -> None:
    def command(ctx: typer.Context) -> None:
        from lab.cli.dispatch import run_hydra_job

        run_hydra_job(experiment, ctx.args)

    *group, leaf = experiment.command.split()
    parent = app
    if group:
        parent = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
        app.add_typer(parent, name=group[0], help=experiment.help.splitlines()[0])
    parent.command(leaf, help=experiment.help, context_settings=_HYDRA)(command)


for _experiment in found_experiments():
    _add(_experiment)
