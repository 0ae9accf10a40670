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


@app.command()
def doctor() -> None:
    """Say what this machine can run, and the command that adds what is missing."""
    from lab.cli.doctor import print_report

    print_report()


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="What to time: hmm-risk or ssd.")],
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the candidates take turns.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: a check that everything runs.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the result to this file, figures beside it.")] = None,
) -> None:
    """Time our solvers and operators beside their peers, in one process, after comparing results."""
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
