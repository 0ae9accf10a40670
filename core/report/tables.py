"""Tables as text to copy: Markdown and LaTeX; and numbers as they are shown."""

import math
import re
from collections.abc import Sequence

from lab.core.report.content import Entry, Table

_OF_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "−": r"$-$",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def shown(entry: Entry) -> str:
    """An entry to three significant digits; nothing for None and for what is not finite."""
    if entry is None or (isinstance(entry, float) and not math.isfinite(entry)):
        return ""
    return f"{entry:.3g}" if isinstance(entry, float) else str(entry)


def is_number(entry: Entry) -> bool:
    """Whether an entry is a number, or a text that begins like one."""
    if isinstance(entry, str):
        return re.match(r"[+-]?(\d|inf\b)", entry) is not None
    return entry is not None


def numeric_columns(table: Table) -> list[bool]:
    """For each column, whether most of its entries are numbers: these are set to the right."""
    return [
        2 * sum(is_number(row[place]) for row in table.rows) > sum(row[place] not in (None, "") for row in table.rows)
        for place in range(len(table.columns))
    ]


def markdown(table: Table) -> str:
    """A table of GitHub's Markdown."""
    rule = ["---:" if numeric else "---" for numeric in numeric_columns(table)]
    rows = [[_in_markdown(shown(entry)) for entry in row] for row in table.rows]
    lines = [[_in_markdown(name) for name in table.columns], rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(table: Table) -> str:
    """A tabular of LaTeX with booktabs: a label of the first column stands once, and a rule between labels."""
    places = "".join("r" if numeric else "l" for numeric in numeric_columns(table))
    lines = [f"\\begin{{tabular}}{{{places}}}", r"\toprule", _latex_row(table.columns)]
    label = None
    is_grouped = len({row[0] for row in table.rows}) < len(table.rows)
    for number, row in enumerate(table.rows):
        if number == 0 or (is_grouped and row[0] != label):
            lines.append(r"\midrule")
        entries = [shown(entry) for entry in row]
        lines.append(_latex_row(["", *entries[1:]] if number > 0 and row[0] == label else entries))
        label = row[0]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _in_markdown(text: str) -> str:
    # angle brackets: Markdown passes HTML through
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return plain.replace("<", "&lt;").replace(">", "&gt;")


def _latex_row(entries: Sequence[str]) -> str:
    return (
        " & ".join("".join(_OF_LATEX.get(mark, mark) for mark in " ".join(text.split())) for text in entries) + r" \\"
    )
