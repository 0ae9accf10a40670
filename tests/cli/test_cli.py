"""The command as it is typed: what it prints, what it writes, and how it refuses."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.cli.dispatch import run_hydra_job
from lab.experiments.hmm_risk import SPEC

Lab = Callable[..., Any]

README = (Path(__file__).parents[2] / "README.md").read_text()


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


FILES = {
    ".lock",
    "config.json",
    "figures",
    "lab.log",
    "metrics.jsonl",
    "overrides.json",
    "provenance.json",
    "status.json",
    "summary.json",
    "table.parquet",
}


def sweep(lab: Lab, *arguments: str, **options: Any) -> Any:
    return lab("hmm-risk", "sweep", *arguments, **options)


def run_folders(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("hmm_risk/runs/*"))


def files_under(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.exists() else {}


def check_refused(done: Any, *words: str) -> None:
    """One line that names key and value, and exit code 2."""
    assert done.code == 2, done.err
    assert done.err.startswith("lab: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_a_sweep_writes_one_directory_with_everything_in_it(
    finished_run: tuple[Path, str], tiny: tuple[str, ...]
) -> None:
    outputs, printed = finished_run
    (folder,) = run_folders(outputs)
    names = {path.name for path in folder.iterdir()}
    assert names >= FILES
    listed = README.partition("| file | what it holds |")[2].partition("\n\n")[0]
    assert [name for name in names if f"`{name}" not in listed] == []
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".pdf", ".png", ".parquet", ".txt", ".tex"}
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    assert json.loads((folder / "overrides.json").read_text()) == list(tiny)
    assert str(folder / "figures" / "excess_risk.png") in printed
    assert printed.splitlines()[-1] == str(folder)
    kinds = [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # three widths, two replicates, and the theory of each width and between them
    assert (kinds.count("theory"), kinds.count("measured"), kinds.count("between") > 0) == (3, 6, True)
    assert list(outputs.parent.iterdir()) == [outputs], "nothing is written beside the output folder"


@pytest.mark.slow
def test_a_quiet_sweep_prints_where_its_runs_are(lab: Lab, outputs: Path, tiny: tuple[str, ...]) -> None:
    done = sweep(lab, "--quiet", *tiny)
    assert (done.code, done.out.splitlines(), done.err) == (0, list(map(str, run_folders(outputs))), "")
    done = sweep(lab, "--quiet", "-m", *tiny, "seed=1,2")
    points = sorted(outputs.glob("hmm_risk/sweeps/*/[01]"))
    assert (done.code, done.out.splitlines(), done.err) == (0, list(map(str, points)), "")


@pytest.mark.slow
def test_quiet_is_refused_where_nothing_runs(lab: Lab) -> None:
    check_refused(sweep(lab, "--quiet", "--cfg", "job"), "--quiet with --cfg")
    check_refused(
        lab("slurm", "script", "hmm-risk", "sweep", "--quiet", "time=60"), "--quiet: a job runs a command as it stands"
    )


@pytest.mark.parametrize(
    "words",
    [
        (
            "representation=posterior",
            "task=next_token",
            "hmm.num_states=[4,9]",
            "population_sequences=1000",
            "figures=[excess_risk]",
        ),
        pytest.param(
            (
                "representation=next_token_distribution",
                "task=next_state",
                "hmm.num_states=6",
                "population_sequences=1000",
                "figures=[total_risk]",
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "representation=lifted_posterior",
                "task=downstream_label",
                "task.num_outputs=2",
                "widths=[4,10,40]",
                "num_test=50",
                "observation_noise=0.5",
                "figures=[downstream]",
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_a_discrete_hmm_ends_with_a_table_and_a_figure(words: tuple[str, ...], typed: Lab, outputs: Path) -> None:
    sizes = ("num_train=20", "replicates=2", "workers=1", "context_length=8", "hmm.num_tokens=7")
    done = sweep(typed, "hmm=dirichlet", *sizes, *words)
    assert done.code == 0, done.err
    (folder,) = run_folders(outputs)
    assert len(list((folder / "figures").glob("*.png"))) == 1
    assert (folder / "table.parquet").exists()


def test_a_resumed_run_that_is_finished_does_nothing_twice(typed: Lab, recorded: Path) -> None:
    before = files_under(recorded)
    done = sweep(typed, f"resume={recorded.name[-6:]}")
    assert done.code == 0, done.err
    after = files_under(recorded)
    for name in ("metrics.jsonl", "table.parquet", "config.json", "overrides.json", "summary.json"):
        assert after[recorded / name] == before[recorded / name]


@pytest.mark.slow
@pytest.mark.parametrize("at", ["front", "middle", "end"])
def test_the_flag_of_a_sweep_may_stand_anywhere(at: str, typed: Lab, outputs: Path, tiny: tuple[str, ...]) -> None:
    words = ["num_train=20,24", *tiny[1:]]
    words.insert({"front": 0, "middle": 2, "end": len(words)}[at], "--multirun" if at == "end" else "-m")
    done = sweep(typed, *words)
    assert done.code == 0, done.err
    points = sorted(outputs.glob("hmm_risk/sweeps/*/[0-9]*"))
    assert [json.loads((point / "config.json").read_text())["num_train"] for point in points] == [20, 24]


@pytest.mark.parametrize("words", [("--cfg", "job", "num_train=37"), ("num_train=37", "--cfg", "job")])
def test_the_configuration_is_printed_and_nothing_runs(words: tuple[str, ...], typed: Lab, outputs: Path) -> None:
    done = sweep(typed, *words)
    assert done.code == 0, done.err
    assert "num_train: 37" in done.out
    assert not outputs.exists()


def test_hydra_tells_where_defaults_come_from(typed: Lab, outputs: Path) -> None:
    done = sweep(typed, "--info", "defaults")
    assert done.code == 0, done.err
    assert "hmm/orthogonal_modes" in done.out
    assert not outputs.exists()


REFUSED = {
    "unknown key": (["replicate=3"], ["replicate", "did you mean replicates"]),
    "unknown inner key": (["hmm.spectral_radios=0.5"], ["hmm.spectral_radios", "did you mean", "spectral_radius"]),
    "added unknown key": (["+replicate=3"], ["replicate"]),
    "wrong type": (["replicates=many"], ["replicates", "many"]),
    "wrong inner type": (["hmm.spectral_radius=[1]"], ["hmm.spectral_radius"]),
    "fraction where a whole number is meant": (["num_train=20.5"], ["num_train=20.5", "whole numbers"]),
    "word in a grid": (["gammas=[0.5,wide]"], ["gammas", "wide"]),
    "empty gammas": (["gammas=[]"], ["gammas=[]", "empty"]),
    "empty widths": (["widths=[]"], ["widths=[]", "empty"]),
    "empty grid": (["observation_noise=[]"], ["observation_noise=[]", "empty"]),
    "gamma of zero": (["gammas=[0,1]"], ["gammas=0", "gamma = p/n from"]),
    "negative gamma": (["gammas=[1,-0.5]"], ["gammas=-0.5", "gamma = p/n from"]),
    "gamma that is not a number": (["gammas=[nan]"], ["gammas=nan", "finite"]),
    "no sizes": (["gammas=null"], ["gammas=null", "widths=null"]),
    "no rows": (["num_train=0"], ["num_train=0", "from 1 to"]),
    "unstable transition": (["hmm.spectral_radius=1"], ["hmm.spectral_radius=1.0", "below 1"]),
    "negative ridge": (["ridge=[-1]"], ["ridge=-1", "strengths of 0, or from"]),
    "negative noise": (["observation_noise=-1"], ["observation_noise=-1", "0, or from"]),
    "negative seed": (["seed=-1"], ["seed=-1", "0 or more"]),
    "one replicate": (["replicates=1"], ["replicates=1", "2 or more"]),
    "unsorted widths": (["widths=[4,2]"], ["widths=[4, 2]", "ascending order"]),
    "unknown option": (["hmm=cyclic"], ["hmm/cyclic", "orthogonal"]),
    "unknown group": (["weather=sunny"], ["weather"]),
    "unknown experiment": (["experiment=hmm_risk/f99"], ["experiment/hmm_risk/f99"]),
    "unknown figure": (["figures=[pie]"], ["figures=pie", "excess_risk"]),
    "words that do not fit together": (["representation=posterior"], ["representation=posterior", "last_token"]),
    "no override": (["num_train"], ["num_train"]),
    "broken override": (["gammas=[1"], ["gammas=[1"]),
    "unknown flag": (["--fast"], ["--fast"]),
    "bad point of a sweep": (["-m", "num_train=20,0"], ["num_train=0", "from 1 to"]),
    "unknown option in a sweep": (["hmm=orthogonal_modes,cyclic", "-m"], ["hmm/cyclic"]),
    "sweep without its flag": (["num_train=20,30"], ["num_train", "20,30"]),
    "resume of nothing": (["resume=20200101"], ["20200101", "lab runs"]),
    "resume of an empty name": (["resume="], ["is empty", "lab runs"]),
}


@pytest.mark.parametrize(("words", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_one_line_and_nothing_is_written(
    words: list[str],
    named: list[str],
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # in this process, for speed; a few of them are typed as well
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run_hydra_job(SPEC, words)
    printed = capfd.readouterr()
    check_refused(Finished(int(str(left.value.code)), printed.out, printed.err), *named)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unknown key", "unknown option in a sweep"])
def test_bad_input_as_typed_is_one_line_and_nothing_is_written(name: str, lab: Lab, tmp_path: Path) -> None:
    words, named = REFUSED[name]
    check_refused(sweep(lab, *words), *named)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["outputs", "outputs/hmm_risk", "outputs/hmm_risk/runs"])
def test_an_output_folder_that_cannot_be_written_is_refused(
    depth: str, typed: Lab, outputs: Path, tmp_path: Path, tiny: tuple[str, ...]
) -> None:
    in_the_way = tmp_path / depth
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    check_refused(sweep(typed, *tiny), str(in_the_way), "LAB_OUTPUTS")
    check_refused(sweep(typed, "-m", *tiny), "LAB_OUTPUTS") if depth != "outputs/hmm_risk/runs" else None
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(typed: Lab, outputs: Path, tiny: tuple[str, ...]) -> None:
    outputs.mkdir(mode=0o500)
    check_refused(sweep(typed, *tiny), str(outputs), "permission")


@pytest.mark.parametrize("name", ["config.json", "overrides.json", "provenance.json"])
def test_resuming_a_damaged_run_is_refused(name: str, typed: Lab, recorded: Path) -> None:
    (recorded / name).write_text("{torn\n")
    before = (recorded / "metrics.jsonl").read_bytes()
    check_refused(sweep(typed, f"resume={recorded}"), str(recorded / name))
    assert (recorded / "metrics.jsonl").read_bytes() == before


def test_a_run_goes_on_under_its_own_configuration_only(typed: Lab, recorded: Path, tiny: tuple[str, ...]) -> None:
    before = files_under(recorded)
    check_refused(sweep(typed, f"resume={recorded}", "num_train=24"), "num_train=24", "resume=")
    check_refused(sweep(typed, f"resume={recorded}", "replicates=1"), "replicates=2, not 1", "give 2 or more")
    assert files_under(recorded) == before
    check_refused(sweep(typed, *tiny, "seed=1", f"hydra.run.dir={recorded}"), str(recorded), "seed=0", "not 1")
    kept = ("metrics.jsonl", "table.parquet", "config.json", "overrides.json", "status.json")
    assert {name: (recorded / name).read_bytes() for name in kept} == {name: before[recorded / name] for name in kept}
