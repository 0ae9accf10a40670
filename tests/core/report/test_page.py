"""The page of a report: complete without a network, valid, accessible, and text from a run is escaped."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from html_checks import faults, parsed
from lab.core.errors import RunError
from lab.core.report.content import Claim, Findings, HeatMap, Picture, Table, Verdict, share_verdict
from lab.core.report.differences import differences
from lab.core.report.page import RunReport, page
from lab.core.report.pictures import data_uri
from lab.core.report.recorded import RecordedRun
from lab.core.report.tables import latex, markdown

EVIL = "<script>alert('é & \"x\"')</script></pre><img src=x onerror=alert(1)>"


def png(size: tuple[int, int] = (60, 20), colour: str = "white") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def recorded(folder: Path, word: str = "a word", **config: Any) -> RecordedRun:
    """A run in which every text is `word`."""
    figures = folder / "figures"
    figures.mkdir(parents=True)
    (figures / "risk.png").write_bytes(png())
    (figures / "risk.txt").write_text(word)
    contents: dict[str, Any] = {
        "status": {"status": "finished", "title": word, "headline": word, "started": word},
        "config": {"title": word, "figures": ["risk"], word: word, **config},
        "overrides": [word],
        "provenance": {"commit": word, "seeds": {word: 1}, "versions": {word: word}},
        "summary": {"columns": ["curve", word, "n"], "rows": [[word, 0.123456, 3], ["b", None, 4]], "verdict": [word]},
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return RecordedRun(folder, word)


def report(run: RecordedRun, word: str = "a word", study: str = "First study") -> RunReport:
    findings = Findings(
        claims=[
            Claim(statement=f"claim {word}", verdict=Verdict.holds, evidence=word, figure="risk"),
            Claim(statement=f"other {word}", verdict=Verdict.fails, evidence=word, figure="risk"),
        ],
        pictures=[Picture(name=word, png=png(), alt=word, caption=word)],
        tables=[HeatMap(title=word, columns=["layer", word], rows=[[word, 0.1], ["b", 0.9], ["c", None]])],
        design={word: word},
        faults=[word],
    )
    return RunReport(run=run, study=study, command=f"lab {word}", findings=findings)


def test_a_page_stands_alone_and_is_valid(tmp_path: Path) -> None:
    runs = [recorded(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2))]
    text = page([report(runs[0]), report(runs[1], study="Other")], "lab report one two")
    assert faults(text) == []
    assert text.count("data:image/") == 4
    assert "<h2>First study</h2>" in text
    assert "Other" in text


def test_nothing_that_a_run_brings_is_markup(tmp_path: Path) -> None:
    runs = [recorded(tmp_path / str(seed), EVIL, seed=seed) for seed in (1, 2)]
    text = page([report(run, EVIL, EVIL) for run in runs], f"lab {EVIL}")
    assert faults(text) == []
    found = parsed(text)
    plain = page([report(recorded(tmp_path / str(seed), seed=seed)) for seed in (3, 4)], "lab report")
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in parsed(plain).tags]
    # as text it is all there: claims, evidence, captions, tables in two forms, provenance, commands, differences
    assert "".join(found.text).count("alert(1)") >= 25
    assert 'http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;' in text


def test_runs_in_folders_of_one_name_are_told_apart_by_the_folders_around_them(tmp_path: Path) -> None:
    runs = [
        recorded(tmp_path / place, f"word {place}", width=number)
        for number, place in enumerate(("a/one", "b/one", "b/two"))
    ]
    shown = " ".join(parsed(page([report(run) for run in runs], "lab report")).text)
    named = shown[shown.rindex("Where the configurations differ") :].split()
    assert {"a/one", "b/one", "two"} <= set(named)


def test_a_figure_stands_under_the_first_claim_that_names_it(tmp_path: Path) -> None:
    text = page([report(recorded(tmp_path / "run"))], "lab report")
    first, second = text.index("claim a word <span"), text.index("other a word <span")
    assert text.count('alt="risk of a word"') == 1
    assert first < text.index('alt="risk of a word"') < second


@pytest.mark.parametrize("name", ["status", "config", "overrides", "provenance", "summary"])
@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"columns": 3, "rows": [[{}]], "verdict": [1]}', None])
def test_a_damaged_file_is_said_in_the_report(tmp_path: Path, name: str, content: str | None) -> None:
    run = recorded(tmp_path / "run")
    path = tmp_path / "run" / f"{name}.json"
    path.unlink() if content is None else path.write_text(content)
    text = page([RunReport(run=run, study="s", command=str(run.overrides), findings=Findings())], "lab report")
    assert faults(text) == []
    is_whole = content == '{"columns": 3, "rows": [[{}]], "verdict": [1]}' and name in (
        "status",
        "config",
        "provenance",
    )
    if not is_whole and not (name == "overrides" and content == "[1]"):
        assert f"{name}.json" in "".join(parsed(text).text)


def test_a_damaged_figure_is_said_in_the_report(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run")
    (tmp_path / "run" / "figures" / "risk.png").write_bytes(png()[:60])
    text = page([report(run)], "lab report")
    assert faults(text) == []
    assert "figure risk: it is not a PNG picture, or is damaged" in text


def test_pictures_keep_their_shape_and_lose_dots_and_colours() -> None:
    source, width, height = data_uri(png((2000, 500)))
    assert (width, height) == (1200, 300)
    assert source.startswith("data:image/webp;base64,")
    plain = Image.radial_gradient("L").resize((800, 640)).convert("RGB")
    plain.paste((0, 114, 178), (10, 10, 16, 16))
    buffer = io.BytesIO()
    plain.save(buffer, "PNG")
    source, _, _ = data_uri(buffer.getvalue())
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as kept:
        marker = kept.convert("RGB").getpixel((13, 13))
        assert len(kept.convert("RGB").getcolors() or []) <= 128
    assert max(abs(a - b) for a, b in zip(marker, (0, 114, 178), strict=True)) <= 16  # type: ignore[arg-type]
    with pytest.raises(RunError, match="not a PNG"):
        data_uri(b"GIF89a")


def test_tables_are_copied_as_markdown_and_latex() -> None:
    table = Table(
        title="t", columns=["curve", "gap %", "a|b"], rows=[["λ_1 & <b>", 0.123456, "x"], ["", None, "p|q\\r"]]
    )
    assert markdown(table) == (
        "| curve | gap % | a\\|b |\n| --- | ---: | --- |\n| λ_1 & &lt;b&gt; | 0.123 | x |\n|  |  | p\\|q\\\\r |\n"
    )
    curves = Table(title="t", columns=["c", "x"], rows=[["a", 1], ["a", 2], ["b", 3]])
    assert latex(curves).splitlines()[3:8] == [r"\midrule", r"a & 1 \\", r" & 2 \\", r"\midrule", r"b & 3 \\"]
    assert latex(table) == (
        "\\begin{tabular}{lrl}\n\\toprule\ncurve & gap \\% & a|b \\\\\n\\midrule\n"
        "$\\lambda$\\_1 \\& <b> & 0.123 & x \\\\\n &  & p|q\\textbackslash{}r \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


@pytest.mark.parametrize(("num_rows", "is_copied"), [(64, True), (65, False)])
def test_a_table_that_no_page_of_a_paper_holds_is_shown_whole_but_not_copied(
    tmp_path: Path, num_rows: int, is_copied: bool
) -> None:
    table = Table(title="t", columns=["x"], rows=[[1000 + number] for number in range(num_rows)])
    run = RunReport(run=recorded(tmp_path / "run"), study="s", command="", findings=Findings(tables=[table]))
    text = page([run], "lab report run")
    assert faults(text) == []
    assert all(f"{1000 + number}" in text for number in range(num_rows))
    assert (r"1001 \\" in text) == is_copied
    assert (f"With {num_rows} rows it is longer than a page of a paper" in text) != is_copied


def test_differences_group_runs_by_value() -> None:
    found = differences({"a": {"n": 1, "x": {"y": [1], "z": 2}}, "b": {"n": 1, "x": {"y": [2], "z": 2}}, "c": {"n": 1}})
    assert [(difference.key, difference.values) for difference in found] == [
        ("x.y", {"[1]": ["a"], "[2]": ["b"], '"absent"': ["c"]}),
        ("x.z", {"2": ["a", "b"], '"absent"': ["c"]}),
    ]
    assert differences({"a": {"n": 1}}) == []
    (seeds,) = differences({name: {"seed": int(name == "b")} for name in "abcd"})
    assert seeds.values == {"1": ["b"], "0": ["the other 3"]}


def test_the_verdict_of_several_curves() -> None:
    assert [share_verdict(*pair) for pair in ((2, 2), (1, 2), (0, 2), (0, 0))] == [
        Verdict.holds,
        Verdict.partly,
        Verdict.fails,
        Verdict.undecided,
    ]
