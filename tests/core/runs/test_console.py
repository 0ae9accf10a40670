import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from lab.core.errors import ConfigError
from lab.core.runs import console
from lab.core.runs.console import print_directory, print_summary, progress, quiet, seconds_between_lines

RUN = Path("/runs/7")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(capsys, *, title="Sweep", columns=("cell", "width"), rows=(), verdict=(), figures=()):
    print_summary(title, columns, rows, verdict, figures)
    print_directory(RUN)
    return capsys.readouterr().out


def test_a_table_is_printed_for_each_value_of_the_first_column_then_verdict_figures_and_the_run(capsys):
    out = printed(
        capsys,
        columns=("cell", "width", "risk"),
        rows=[("SNR 1", "10", "0.5"), ("SNR 1", "20", "0.7"), ("SNR 5", "10", "0.1")],
        verdict=["the peak is at 20"],
        figures=[Path("/runs/7/risk.png")],
    )
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines == [
        ["Sweep"],
        ["SNR", "1"],
        ["width", "risk"],
        ["10", "0.5"],
        ["20", "0.7"],
        ["SNR", "5"],
        ["width", "risk"],
        ["10", "0.1"],
        ["-", "the", "peak", "is", "at", "20"],
        ["figure:", "/runs/7/risk.png"],
        ["/runs/7"],
    ]


def test_brackets_and_colons_are_printed_as_they_are(capsys):
    out = printed(
        capsys,
        title="risk [bold] :smile:",
        columns=("cell", "risk [nats]"),
        rows=[("curve [red]", "[1]")],
        verdict=["within 2 % in [a, b]", "an odd [/] one"],
        figures=[Path("/runs/[x]/risk.png")],
    )
    for text in ("risk [bold] :smile:", "risk [nats]", "within 2 % in [a, b]", "an odd [/] one", "/runs/[x]/risk.png"):
        assert text in out
    # the title of a narrow table wraps
    assert "[red]" in out


def test_without_a_title_or_label_nothing_is_printed_in_its_place(capsys):
    out = printed(capsys, title="", columns=("cell", "width"), rows=[("", "10")])
    assert [line.strip() for line in out.splitlines() if line.strip()] == ["width", "10", "/runs/7"]


def test_a_path_is_never_broken_and_a_pipe_carries_no_colour(capsys):
    path = Path("/" + "/".join(["a_long_name"] * 20)) / "risk.png"
    out = printed(capsys, figures=[path], verdict=["0.5 of 3"])
    assert f"figure: {path}\n" in out
    assert "\x1b" not in out


def test_a_table_wider_than_an_old_terminal_is_not_cut_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert not sys.stdout.isatty()
    names = [f"column_{i}" for i in range(8)]
    out = printed(capsys, columns=("cell", *names), rows=[("", *names)])
    assert all(out.count(name) == 2 for name in names)


def test_a_quiet_run_prints_its_directory_and_nothing_else(capsys):
    with quiet():
        with progress("draws", 3) as advance:
            advance(3)
        assert printed(capsys, rows=[("", "10")], verdict=["a peak"], figures=[Path("/f.png")]) == "/runs/7\n"
    assert capsys.readouterr().err == ""
    assert "a peak" in printed(capsys, verdict=["a peak"])


def test_numbers_are_printed_to_three_digits_and_columns_that_do_not_fit_follow_below(capsys):
    names = [f"quantity {i}" for i in range(30)]
    out = printed(
        capsys, columns=("cell", "width", *names), rows=[("", 10, *[1 / 3] * 29, None), ("", 200, *[2e-9] * 30)]
    )
    lines = out.splitlines()
    assert max(map(len, lines)) <= 160
    assert sum(line.split()[:1] == ["10"] for line in lines) == sum(line.split()[:1] == ["width"] for line in lines) > 1
    assert (out.count("0.333"), out.count("2e-09")) == (29, 30)
    assert all(out.count(f"{name} ") + out.count(f"{name}\n") == 1 for name in names)


def test_a_pipe_gets_a_line_from_time_to_time_and_no_guess_before_the_first_step(capsys, monkeypatch):
    monkeypatch.delenv("LAB_PROGRESS_EVERY")
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with progress("stage 1", 2000, completed=1000) as advance:
        for seconds, done, words in [(20, 1000, "a"), (40, 1000, "validation 3"), (50, 1100, "b"), (100, 1200, "")]:
            now[0] = seconds
            advance(done, words)
    assert capsys.readouterr().err.splitlines() == [
        "lab: stage 1: 1,000 of 2,000, validation 3",
        "lab: stage 1: 1,200 of 2,000, 7 min left",
    ]
    with quiet(), progress("stage 1", 2) as advance:
        advance(1, "loss")
    assert capsys.readouterr().err == ""


def test_what_is_left_is_measured_from_the_first_step_on_not_from_what_comes_before(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("LAB_PROGRESS_EVERY", "0")
    with progress("draws", 52, completed=1) as advance:
        for now[0], done in ((0, 1), (2160, 2), (2220, 3), (2280, 4)):
            advance(done)
    assert capsys.readouterr().err.splitlines() == [
        "lab: draws: 1 of 52",
        "lab: draws: 2 of 52",
        "lab: draws: 3 of 52, 49 min left",
        "lab: draws: 4 of 52, 48 min left",
    ]


def test_a_bar_says_what_is_left_of_steps_of_minutes_and_leaves_out_what_comes_before(monkeypatch):
    now, screen = [0.0], Terminal()
    terminal = Console(file=screen, width=80, force_terminal=True, get_time=lambda: now[0])
    monkeypatch.setattr(console, "Console", lambda **kwargs: terminal)
    with progress("draws", 52) as advance:
        for now[0], done in ((2160, 1), (2220, 2), (2280, 3)):
            advance(done)
    assert "0:49:00" in screen.getvalue()


@pytest.mark.parametrize(("given", "lines"), [("5", 2), ("0", 2), ("1e9", 0)])
def test_the_environment_says_how_often(capsys, monkeypatch, given, lines):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("LAB_PROGRESS_EVERY", given)
    with progress("stage 1", 2000) as advance:
        for now[0] in (6, 12):
            advance(1000)
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize("given", ["", "often", "nan", "-1", "inf", "-inf", "5 min"])
def test_what_is_no_interval_is_refused(monkeypatch, given):
    monkeypatch.setenv("LAB_PROGRESS_EVERY", given)
    with pytest.raises(ConfigError, match=rf"^LAB_PROGRESS_EVERY={given} must be a number of seconds, 0 or more; give"):
        seconds_between_lines()


def test_words_leave_a_bar_its_room_in_a_terminal_of_80_columns(monkeypatch):
    screen, words = Terminal(), "loss 0.0123, learning rate 0.0005, 12,300 tokens/s, validation 0.0131, 1.2 GB"
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with progress("2 of 4: stage 1", 20000) as advance:
        advance(1200, words)
    shown = screen.getvalue()
    for text in ("2 of 4: stage 1", "1200/20000", "left", words):
        assert text in shown
