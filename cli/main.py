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
from lab.cli import compare, data, models, plot, track
from lab.cli.cluster.script import HELP as SLURM_HELP
from lab.cli.help import EXPERIMENTS, MACHINE, RESULTS, SectionedGroup, command_with_help
from lab.core.errors import ConfigError
from lab.core.ranges import LARGEST_COUNT
from lab.core.streams import printed, steady_streams
from lab.experiments.spec import Experiment

# One BLAS or OpenMP thread a process: with more, a busy machine is up to 100 times slower, since every small product
# waits for all threads to be scheduled. Who sets these keeps them. They count when numpy or torch is first imported.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# Where a job asks for more, threads that wait for others sleep after some microseconds; by default they keep a core for
# milliseconds, and beside other programs a small model is five times as slow. Alone it makes no difference.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# progress is said by `lab`; bars of libraries fill the logs of jobs
os.environ.setdefault("TQDM_DISABLE", "1")

# figures are files: no window is opened, whatever the environment names for that
os.environ["MPLBACKEND"] = "agg"

# everything behind the command belongs to Hydra, flags included
_HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}

_REPORT = """Write one HTML page about runs: claims, figures and numbers.

The file needs no network and no other file. Claims come first, each with its figure, its numbers and a verdict; then
tables, also as Markdown and LaTeX to copy, the commands that make everything again, and where the configurations of the
runs differ. Of a sweep, every point is a run. What is missing or damaged of a run is said in the report. An earlier
report in the same place is replaced; any other file is left alone, and the command refused.

\b
Examples:
  lab report RUN
  lab report outputs/reference/hmm_risk/* -o first-study.html
"""

app = typer.Typer(
    name="lab",
    cls=SectionedGroup,
    help="Experiments on state-space models: the risk of heads on their states (hmm-risk) and on real features "
    "(probe); Transformers distilled into linear-time models (distill) and evaluated (eval).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The console script."""
    steady_streams()
    app()


@app.command(rich_help_panel=RESULTS)
def runs(
    study: Annotated[str, typer.Option(help="List runs of this study only, such as hmm_risk.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """List recorded runs, newest first: status, age, main result."""
    from lab.cli.dispatch import one_line_errors
    from lab.cli.run_data import print_json
    from lab.cli.tables import listed, print_runs

    with one_line_errors(), printed():
        studies = [experiment.config for experiment in found_experiments()]
        if as_json:
            print_json(listed(study, limit, studies=studies))
        else:
            print_runs(study, limit, studies=studies)


@app.command(rich_help_panel=RESULTS)
def show(
    run: Annotated[str, typer.Argument(help="The run: its directory, or the end of its name.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything as JSON: table, verdict, configuration, provenance.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The table as CSV, a line for each draw.")] = False,
    summarised: Annotated[
        bool, typer.Option("--summary", help="With --csv: a line for each point, with means and errors.")
    ] = False,
) -> None:
    """Print the table, verdict and figure paths of a run."""
    from lab.cli.dispatch import one_line_errors

    with one_line_errors(), printed():
        if as_json and as_csv:
            raise ConfigError("--json and --csv cannot be printed together; leave one out")
        if summarised and not as_csv:
            raise ConfigError("--summary chooses the lines of --csv; add that, or leave it out")
        if as_json:
            from lab.cli.run_data import print_json, run_content

            print_json(run_content(run))
        elif as_csv:
            from lab.cli.run_data import print_csv, print_summary_csv

            print_summary_csv(run) if summarised else print_csv(run)
        else:
            from lab.cli.tables import print_run

            print_run(run)


@app.command(help=_REPORT, rich_help_panel=RESULTS)
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="The runs: directories, or ends of their names.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write; an earlier report there is replaced.")
    ] = Path("report.html"),
) -> None:
    """Write one HTML page about runs: claims, figures and numbers."""
    from lab.cli.dispatch import one_line_errors

    with one_line_errors(), printed(is_also_written=True):
        from lab.cli.report import write_report

        write_report(runs, output, found_experiments())


track.add(app)
models.add(app)


@app.command(rich_help_panel=MACHINE)
def doctor(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure what computes products fastest, unless it is known; seconds.")
    ] = False,
) -> None:
    """Report what this machine can run, and how to add the rest."""
    from lab.cli.dispatch import one_line_errors
    from lab.cli.doctor import measure_products, print_report

    with one_line_errors(), printed():
        if measure:
            measure_products()
        print_report()


@app.command(rich_help_panel=MACHINE)
def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="What to time: hmm-risk, probe, products, decode, long-context, answer-speed, ssd, delta-rule, "
            "distill, train, processes or loader."
        ),
    ],
    repeats: Annotated[
        int, typer.Option(min=1, max=LARGEST_COUNT, help="Number of rounds; each round times every candidate once.")
    ] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Use small sizes, to check that everything runs.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file, with figures.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Model of long-context, answer-speed: a name in conf/teacher or a folder."),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="For long-context, answer-speed: bfloat16 or float32.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="For long-context, answer-speed: number of layers, if fewer.")
    ] = None,
    lengths: Annotated[str | None, typer.Option(help="For long-context: tokens in the cache, as in 1K,103K.")] = None,
) -> None:
    """Time lab's solvers, operators and training steps against peers.

    All candidates run in one process, and their results are compared before anything is timed.
    """
    from lab.cli.dispatch import one_line_errors

    with one_line_errors(), printed(is_also_written=json is not None):
        given = {"teacher": teacher, "precision": precision, "layers": layers, "lengths": lengths}
        options = {key: value for key, value in given.items() if value is not None}
        run = importlib.import_module("lab.experiments.bench.run")
        run.main(name, repeats=repeats, quick=quick, json_path=json, options=options)


@app.command(rich_help_panel=MACHINE)
def version() -> None:
    """Print the version of lab."""
    from importlib.metadata import version as installed

    from lab.cli.dispatch import one_line_errors

    with one_line_errors(), printed():
        print(f"lab {installed('ssm-lab')}")


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
        app.add_typer(parent, name=group[0], help=experiment.summary, rich_help_panel=EXPERIMENTS)
    of_hydra = command_with_help(experiment.help)
    parent.command(leaf, help=experiment.summary, cls=of_hydra, context_settings=_HYDRA, rich_help_panel=EXPERIMENTS)(
        command
    )


def _slurm_script(ctx: typer.Context) -> None:
    from lab.cli.cluster.script import script
    from lab.cli.dispatch import one_line_errors

    with one_line_errors():
        typer.echo(script(ctx.args, found_experiments()), nl=False)


for _experiment in found_experiments():
    _add(_experiment)
for _command in (plot, compare):
    _command.add(app, found_experiments)
data.add(app)
_slurm = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(_slurm, name="slurm", help="Job scripts for Slurm.", rich_help_panel=MACHINE)
_slurm.command("script", help=SLURM_HELP, context_settings=_HYDRA)(_slurm_script)
