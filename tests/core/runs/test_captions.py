"""Captions as LaTeX: every special character is escaped, and the environment includes the figure."""

import re

from hypothesis import given
from hypothesis import strategies as st

from lab.core.runs.captions import Caption, escaped


def test_a_caption_is_a_figure_environment() -> None:
    caption = Caption(["Risk for γ = p/n, 90 % of A_1 & B.", "n = 5 ± 1."])
    assert caption.text == "Risk for γ = p/n, 90 % of A_1 & B. n = 5 ± 1."
    latex = caption.latex("excess_risk")
    assert r"\includegraphics{excess_risk.pdf}" in latex
    assert r"\label{fig:excess_risk}" in latex
    assert r"Risk for $\gamma$ = p/n, 90 \% of A\_1 \& B." in latex
    assert r"n = 5 $\pm$ 1." in latex
    assert (latex.count("{"), latex.startswith(r"\begin{figure}")) == (latex.count("}"), True)


@given(st.text(alphabet="ab \\&%$#_{}~^<>", max_size=30))
def test_no_special_character_stays(text: str) -> None:
    # what LaTeX would read as a command, a comment, an alignment or an index
    left = re.sub(
        r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\[&%$#_{}]|\$[<>]\$", "", escaped(text)
    )
    assert re.fullmatch("[ab ]*", left)
