"""`lab plot`: figures of recorded runs, from their tables, without computing."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lab.cli.help import RESULTS
from lab.cli.recorded_runs import config_of, labelled_runs, say_unfinished, study_of
from lab.core.errors import ConfigError, LabError
from lab.core.printable import printable
from lab.core.streams import printed, say
from lab.experiments.spec import Experiment

if TYPE_CHECKING:
    from lab.core.runs.figures import Drawn
    from lab.core.runs.recorded_study import LabelledRun, PlotRequest, RecordedStudy

_FORMATS = ("pdf", "png", "svg")
# ticks beyond a logarithmic axis are numbers too
_LARGEST_LIMIT = 1e200

_HELP = """Draw figures of recorded runs, without computing.

A figure is drawn from the tables of its run, in seconds, with other curves, labels, axes or formats if you like.
Several runs are drawn into one figure, and a sweep (-m) stands for its points; each curve is named after the overrides
in which its run differs from the others. Beside each figure are its plotted numbers (.parquet) and its caption, as text
(.txt) and as a figure environment for LaTeX (.tex).

\b
Examples:
  lab plot RUN
  lab plot RUN --figure total_risk --format svg --out paper/figures
  lab plot RUN --curves "SNR 5" --curves "SNR 1" --label "SNR 5=>little noise"
  lab plot RUN --xlim 0.5,2 --ylim 0.1,100 --title "Around the threshold"
  lab plot RUN RUN2 --figure excess_risk
  lab plot SWEEP --figure excess_risk
"""


@dataclass(frozen=True, slots=True)
class PlotOptions:
    """What was asked for, as it was typed."""

    figures: Sequence[str]
    curves: Sequence[str]
    labels: Sequence[str]
    title: str
    xlim: str
    ylim: str
    xscale: str
    yscale: str
    formats: Sequence[str]
    out: Path


def add(app: typer.Typer, experiments: Callable[[], Sequence[Experiment]]) -> None:
    """Add the command `plot` for runs of some experiments."""

    @app.command(help=_HELP, rich_help_panel=RESULTS)
    def plot(
        run: Annotated[
            list[str], typer.Argument(help="Runs or sweeps: directories, or names as `lab runs` lists them.")
        ],
        figure: Annotated[
            list[str] | None,
            typer.Option(help="Name of a figure; repeat for several. By default those of the first run."),
        ] = None,
        curves: Annotated[
            list[str] | None, typer.Option(help="Label of a curve to draw; repeat for several, in their order.")
        ] = None,
        label: Annotated[
            list[str] | None, typer.Option(metavar="OLD=>NEW", help="Rename a curve; repeat for several.")
        ] = None,
        title: Annotated[str, typer.Option(help="Title above the figure.")] = "",
        xlim: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Ends of the x axis, in every panel.")] = "",
        ylim: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Ends of the y axis, in every panel.")] = "",
        xscale: Annotated[str, typer.Option(help="Scale of the x axis: log or linear.")] = "",
        yscale: Annotated[str, typer.Option(help="Scale of the y axis: log or linear.")] = "",
        format: Annotated[
            list[str] | None,
            typer.Option(help="Format of files: pdf, png or svg; repeat for several. By default pdf and png."),
        ] = None,
        out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("plots"),
    ) -> None:
        from lab.cli.dispatch import one_line_errors

        options = PlotOptions(
            figures=figure or [],
            curves=curves or [],
            labels=label or [],
            title=title,
            xlim=xlim,
            ylim=ylim,
            xscale=xscale,
            yscale=yscale,
            formats=format or [],
            out=out,
        )
        with one_line_errors(), printed(is_also_written=True):
            draw_and_save(run, options, experiments())


def draw_and_save(names: Sequence[str], options: PlotOptions, experiments: Sequence[Experiment]) -> None:
    """Draw the figures, save them, and print where they are.

    Raises:
        LabError: if there is no such run, figure or curve; nothing is written then.
    """
    request = _request(options)
    _refuse_bad_formulas(options)
    for word in options.formats:
        if word not in _FORMATS:
            raise ConfigError(f"--format {word}: choose from {', '.join(_FORMATS)}")
    runs = labelled_runs(names)
    say_unfinished(run.directory for run in runs)
    study = study_of(runs, experiments)
    figures = options.figures or _of_run(runs[0], study)
    for name in figures:
        _refuse_unknown(name, study)

    from lab.core.runs.figures import house_style, save_figure

    drawn: dict[str, Drawn] = {}
    with house_style():
        for name in figures:
            with _drawing(name):
                figure = study.draw(name, runs, request)
                if figure is None:
                    raise ConfigError(f"--figure {name}: {runs[0].directory} has nothing that it shows; choose another")
                # texts and ticks are laid out here, before anything is written
                figure.figure.draw_without_rendering()
            drawn[name] = figure
    _make_folders(options.out)
    for name, figure in drawn.items():
        with warnings.catch_warnings():
            # said when it was drawn
            warnings.simplefilter("ignore")
            paths = save_figure(figure, options.out, name, options.formats or ("pdf", "png"))
        for path in paths:
            print(f"figure: {printable(str(path))}")
        print(f"caption: {printable(str(options.out / f'{name}.tex'))}")


@contextmanager
def _drawing(name: str) -> Iterator[None]:
    """What matplotlib warns of is said in a line, and what it cannot draw is refused.

    Raises:
        ConfigError: with the reason.
    """
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", kind)
        try:
            yield
        except LabError:
            raise
        # matplotlib has many ways to refuse numbers and texts that it cannot show
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise ConfigError(
                f"--figure {name}: it cannot be drawn so ({reason}); give other labels or limits"
            ) from error
    for text in dict.fromkeys(str(warning.message) for warning in found):
        say(f"figure {name}: {text}")


def _of_run(run: "LabelledRun", study: "RecordedStudy") -> list[str]:
    """The figures that a run drew itself."""
    recorded = config_of(run.directory).get("figures")
    # one name may be given without brackets
    listed = [recorded] if isinstance(recorded, str) else recorded
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    if not names:
        raise ConfigError(f"{run.directory} has no figures; choose --figure from {', '.join(study.figures())}")
    return names


def _refuse_unknown(name: str, study: "RecordedStudy") -> None:
    import difflib

    known = study.figures()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
        raise ConfigError(f"--figure {name}: there is no such figure; {hint}")


def _request(options: PlotOptions) -> "PlotRequest":
    from lab.core.runs.recorded_study import AxesRequest, PlotRequest, Scale

    for name, scale in (("--xscale", options.xscale), ("--yscale", options.yscale)):
        if scale not in ("", "log", "linear"):
            raise ConfigError(f"{name} {scale}: choose log or linear")
    axes = AxesRequest(
        xlim=_limits("--xlim", options.xlim),
        ylim=_limits("--ylim", options.ylim),
        xscale=cast("Scale | None", options.xscale or None),
        yscale=cast("Scale | None", options.yscale or None),
        title=options.title,
    )
    return PlotRequest(tuple(options.curves), _labels(options.labels), axes)


def _labels(words: Sequence[str]) -> dict[str, str]:
    """New labels by the old ones."""
    found: dict[str, str] = {}
    for word in words:
        old, arrow, new = (part.strip() for part in word.partition("=>"))
        if not (old and arrow and new):
            raise ConfigError(
                f'--label {word}: give the old label and the new one, as in --label "SNR 5=>little noise"'
            )
        if old in found:
            raise ConfigError(f"--label: {old!r} is renamed twice; give it one name")
        found[old] = new
    return found


def _refuse_bad_formulas(options: PlotOptions) -> None:
    """Refuse texts between dollar signs that are no formulas of matplotlib's."""
    from matplotlib.cbook import is_math_text
    from matplotlib.mathtext import MathTextParser

    texts = [("--title", options.title), *(("--label", word) for word in options.labels)]
    for option, text in texts:
        drawn = text.partition("=>")[2].strip() if option == "--label" else text
        if not is_math_text(drawn):
            continue
        try:
            MathTextParser("agg").parse(drawn)
        except ValueError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"{option} {text}: text between dollar signs is a formula, and this is no formula ({reason}); "
                r"write \$ for a dollar sign"
            ) from error


def _limits(option: str, text: str) -> tuple[float, float] | None:
    """Two ascending numbers with a comma between them; None for an empty text."""
    if not text:
        return None
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text}: give two numbers with a comma between them, such as 0.1,5") from error
    if not low < high:
        raise ConfigError(f"{option} {text}: the first number must be smaller than the second")
    if not max(abs(low), abs(high)) <= _LARGEST_LIMIT:
        raise ConfigError(f"{option} {text}: give numbers from {-_LARGEST_LIMIT:g} to {_LARGEST_LIMIT:g}")
    return low, high


def _make_folders(path: Path) -> None:
    from lab.core.runs.atomic_files import as_run_error

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_run_error(error, path) from error
