r"""Captions of figures, as text and as LaTeX: what an author pastes below a figure."""

from collections.abc import Sequence
from dataclasses import dataclass

# what LaTeX reads as a command, and signs that its text fonts lack
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": "$-$",
    "–": "--",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "½": r"$1/2$",
    "α": r"$\alpha$",
    "γ": r"$\gamma$",
    "κ": r"$\kappa$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
    "σ": r"$\sigma$",
}


@dataclass(frozen=True, slots=True)
class Caption:
    """What a figure shows: its marks, and the numbers behind them.

    Attributes:
        sentences: each ends with a full stop.
    """

    sentences: Sequence[str]

    @property
    def text(self) -> str:
        """All sentences in one line."""
        return " ".join(self.sentences)

    def latex(self, name: str) -> str:
        """A figure environment that includes NAME.pdf; it needs the package graphicx."""
        body = "\n    ".join(escaped(sentence) for sentence in self.sentences)
        return (
            "\\begin{figure}\n"
            "  \\centering\n"
            f"  \\includegraphics{{{name}.pdf}}\n"
            f"  \\caption{{%\n    {body}}}\n"
            f"  \\label{{fig:{name}}}\n"
            "\\end{figure}\n"
        )


def escaped(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)
