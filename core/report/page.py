"""The page: one HTML file without external resources, from a template that escapes everything that runs brought."""

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from lab.core.dotted_keys import by_dotted_key
from lab.core.errors import RunError
from lab.core.report.content import Claim, Entry, Findings, HeatMap, Picture, Table, Verdict
from lab.core.report.differences import differences
from lab.core.report.pictures import data_uri
from lab.core.report.recorded import RecordedRun
from lab.core.report.tables import is_number, latex, markdown, numeric_columns, shown
from lab.core.runs.find import run_name

# by which a report is recognised, to be replaced by a later one
GENERATOR = "lab report"

_SHADES = 10
# rows of a table that a page of a paper holds: longer ones are not offered as Markdown and LaTeX
_MOST_COPIED = 64
# of a row of facts: longer ones, such as lists of versions, are told apart by their keys
_PROVENANCE = ("command", "commit", "is_dirty", "python", "host", "platform", "processor", "cores")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReport:
    """A run and what its study says of it.

    Attributes:
        run: its files.
        study: the heading of its study.
        command: that makes the run again; empty if it is not known.
        findings: of the study.
    """

    run: RecordedRun
    study: str
    command: str
    findings: Findings


@dataclass(kw_only=True, slots=True)
class _Figure:
    """A picture as the template needs it."""

    name: str
    source: str
    width: int
    height: int
    alt: str
    caption: str
    command: str


@dataclass(kw_only=True, slots=True)
class _Section:
    """The part of the page about a run."""

    anchor: str
    run: RecordedRun
    claims: Sequence[Claim]
    verdict: Sequence[str]
    figures: Mapping[str, _Figure]
    table: Table | None
    tables: Sequence[Table]
    command: str
    facts: Mapping[str, str]
    provenance: Mapping[str, str]
    faults: list[str] = field(default_factory=list)

    def first_with(self, figure: str) -> Claim | None:
        """The claim under which a figure stands: the first that names it."""
        return next((claim for claim in self.claims if claim.figure == figure), None)

    @property
    def other_figures(self) -> list[_Figure]:
        """Figures that no claim names."""
        named = {claim.figure for claim in self.claims}
        return [figure for name, figure in self.figures.items() if name not in named]


def page(reports: Sequence[RunReport], command: str) -> str:
    """The HTML of a report.

    Args:
        reports: the runs, in their order.
        command: that makes the page.
    """
    sections = [_section(f"run-{number}", report) for number, report in enumerate(reports, start=1)]
    studies: dict[str, list[_Section]] = {}
    for report, section in zip(reports, sections, strict=True):
        studies.setdefault(report.study.rstrip("."), []).append(section)
    short = _short_names([report.run for report in reports])
    compared = {
        study: differences({short[section.run.name]: section.run.config for section in found if section.run.config})
        for study, found in studies.items()
    }
    style, script = _file("style.css"), _file("copy.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'"
    )
    return _template().render(
        generator=GENERATOR,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        studies=studies,
        compared={study: found for study, found in compared.items() if found},
        verdicts=Verdict,
        counts={kind: sum(claim.verdict is kind for part in sections for claim in part.claims) for kind in Verdict},
        command=command,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _short_names(runs: Sequence[RecordedRun]) -> dict[str, str]:
    """The folder of each run, by its name; with as many of the folders around it as tell it from the others."""
    parts = {run.name: run.directory.parts for run in runs}
    return {
        name: _shortest_end(own, [other for key, other in parts.items() if key != name]) for name, own in parts.items()
    }


def _shortest_end(own: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    lengths = range(1, len(own) + 1)
    length = next((length for length in lengths if all(other[-length:] != own[-length:] for other in others)), len(own))
    return "/".join(own[-length:])


def _section(anchor: str, report: RunReport) -> _Section:
    run, findings = report.run, report.findings
    table, verdict = run.summary
    faults: list[str] = []
    figures: dict[str, _Figure] = {}
    for picture in _of_folder(run, faults):
        command = shlex.join(["lab", "plot", str(run.directory), "--figure", picture.name]) if report.command else ""
        _add(figures, picture, command, faults)
    for picture in findings.pictures:
        _add(figures, picture, shlex.join(["lab", "report", str(run.directory)]), faults)
    given = {key: run.provenance[key] for key in _PROVENANCE if key in run.provenance}
    provenance = {key: "not known" if value is None else str(value) for key, value in given.items()}
    nested = ("versions", "threads", "backends", "products", "settings", "slurm", "attempts", "earlier")
    for name in nested:
        if isinstance(part := run.provenance.get(name), dict):
            provenance[name] = ", ".join(f"{key} {value}" for key, value in by_dotted_key(part).items())
    seeds = run.provenance.get("seeds")
    design = {"seeds": ", ".join(f"{key} {value}" for key, value in seeds.items())} if isinstance(seeds, dict) else {}
    dates = {key: str(run.status[key]) for key in ("started", "updated") if run.status.get(key)}
    return _Section(
        anchor=anchor,
        run=run,
        claims=findings.claims,
        verdict=verdict,
        figures=figures,
        table=table,
        tables=findings.tables,
        command=report.command,
        facts={"state": run.state, **dates, **design, **findings.design, "folder": str(run.directory)},
        provenance=provenance,
        faults=list(dict.fromkeys([*run.faults, *findings.faults, *faults])),
    )


def _of_folder(run: RecordedRun, faults: list[str]) -> list[Picture]:
    """The figures of a run, each with the caption that lies beside it."""
    pictures = []
    for path in run.figures:
        alt = f"{path.stem.replace('_', ' ')} of {run.title}"
        text = path.with_suffix(".txt")
        try:
            caption = text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
            pictures.append(Picture(name=path.stem, png=path.read_bytes(), alt=alt, caption=caption))
        except OSError as error:
            faults.append(
                f"{error.filename} cannot be read ({error.strerror}); resume={run_name(run.directory)} writes it"
            )
    return pictures


def _add(figures: dict[str, _Figure], picture: Picture, command: str, faults: list[str]) -> None:
    try:
        source, width, height = data_uri(picture.png)
    except RunError as error:
        faults.append(f"figure {picture.name}: {error}; {command or 'the run'} draws it again")
        return
    figures[picture.name] = _Figure(
        name=picture.name,
        source=source,
        width=width,
        height=height,
        alt=picture.alt,
        caption=picture.caption,
        command=command,
    )


def _file(name: str) -> str:
    return resources.files("lab.core.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _template() -> Any:
    environment = Environment(
        loader=FunctionLoader(_file), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "markdown": markdown, "latex": latex}
    environment.tests |= {"number": is_number, "map": lambda table: isinstance(table, HeatMap)}
    environment.globals |= {
        "numeric_columns": numeric_columns,
        "blocks": _blocks,
        "shade": _shade,
        "most_copied": _MOST_COPIED,
    }
    return environment.get_template("page.html")


def _blocks(table: Table) -> list[tuple[str, list[Sequence[Entry]]]]:
    """Rows with the same label in the first column, one after the other; no label if that is all of them."""
    blocks: list[tuple[str, list[Sequence[Entry]]]] = []
    for row in table.rows:
        label = shown(row[0])
        if not blocks or blocks[-1][0] != label:
            blocks.append((label, []))
        blocks[-1][1].append(row)
    return blocks


def _shade(entry: Entry, table: Table) -> int:
    """A class of a cell of a heat map, 0 to 9, between the least and the largest number."""
    numbers = [value for row in table.rows for value in row if isinstance(value, int | float)]
    low, high = min(numbers, default=0), max(numbers, default=0)
    if not isinstance(entry, int | float) or high == low:
        return 0
    return min(_SHADES - 1, int(_SHADES * (entry - low) / (high - low)))
