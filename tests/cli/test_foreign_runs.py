"""A run folder from somebody else sets keys of the study and does nothing else: no code, no other files, no secrets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# longer than a quick test may take
pytestmark = pytest.mark.slow

Typed = Callable[..., Any]

OVERRIDES = [
    "+hydra.callbacks.x={_target_: torch.ops.load_library, _args_: [LIB.so]}",
    "++hydra.job.env_set.CXX=evil.sh",
    "hydra/launcher=submitit_local",
    "~hydra.sweep",
    "+hydra=evil",
    "hydra.searchpath=[file://evil]",
    "+data@hydra.callbacks=evil",
    "+data@:hydra=evil",
    "--config-dir=evil",
    "-cd",
    "seed=${oc.env:SEED}",
    "title=${oc.decode:x}",
    "title='${${from_run}:SEED}'",
    "title='${oc.${from_run}:SEED}'",
    "experiment=../../../../tmp/evil",
    "+experiment=[hmm_risk/f01_headline,../evil]",
    "hmm=dirichlet,../evil",
    "experiment@title=../evil",
    "experiment=${title}",
]


# each line is ten times the one before
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))


@pytest.fixture(autouse=True)
def _place(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("word", OVERRIDES)
@pytest.mark.parametrize("name", ["overrides.json", "multirun.yaml"])
def test_what_does_more_than_set_a_key_is_refused(typed: Typed, tmp_path: Path, word: str, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    content: Any = ["seed=1", word]
    (folder / name).write_text(json.dumps(content if name == "overrides.json" else multirun(content)))
    before = sorted(tmp_path.rglob("*"))
    done = typed("hmm-risk", "sweep", f"resume={folder}")
    assert done.code == 2
    assert done.err.startswith(f"lab: {folder / name} holds {word}, which can do more than set a key")
    assert done.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def multirun(words: list[str]) -> dict[str, Any]:
    return {"hydra": {"overrides": {"task": words}}}


@pytest.mark.parametrize(
    "content",
    ["hydra: [", "[1]", "hydra: {overrides: 3}", "a: !!python/object/apply:os.system [x]", "[" * 10_000, BOMB],
    ids=["cut off", "a list", "a number", "a call", "nested", "aliases"],
)
def test_a_damaged_sweep_is_one_line(typed: Typed, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "multirun.yaml").write_text(content)
    done = typed("hmm-risk", "sweep", f"resume={folder}")
    assert (done.code, done.err) == (2, f"lab: {folder}/multirun.yaml is damaged; start a new sweep\n")


def test_keys_of_the_run_itself_may_be_referred_to(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "overrides.json").write_text(json.dumps(["num_train=20", "replicates=${num_test}", "nothing=1"]))
    done = typed("hmm-risk", "sweep", f"resume={folder}")
    assert "nothing=1" in done.err


def test_a_secret_does_not_get_into_an_export(
    typed: Typed, tmp_path: Path, distilled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    folder = tmp_path / "run"
    folder.mkdir()
    recorded = json.loads((distilled.root / "distill" / "runs" / "first" / "config.json").read_text())
    recorded["prompt"]["system"] = "${oc.env:SECRET_TOKEN}"
    (folder / "config.json").write_text(json.dumps(recorded))
    done = typed("export", str(folder), str(tmp_path / "exported"))
    assert done.code == 2
    assert "config.json holds an interpolation" in done.err
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("name", "flags"), [("lab.log", ()), (".lock", ()), ("multirun.yaml", ("-m",)), ("0/lab.log", ("-m",))]
)
def test_nothing_is_logged_through_a_link(typed: Typed, tmp_path: Path, name: str, flags: tuple[str, ...]) -> None:
    other = tmp_path / "profile"
    other.write_text("of the user\n")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(other)
    directories = [f"hydra.run.dir={tmp_path / 'run'}", f"hydra.sweep.dir={tmp_path / 'run'}"]
    done = typed("hmm-risk", "sweep", *flags, "num_train=20", *directories)
    assert done.code == 2
    assert done.err == f"lab: {link} is a link, and the run would write to what it leads to; remove it\n"
    assert other.read_text() == "of the user\n"


def test_results_are_not_written_through_a_link(typed: Typed, tmp_path: Path, recorded: Path) -> None:
    other = tmp_path / "profile"
    other.write_text("of the user\n")
    (recorded / "metrics.jsonl").unlink()
    (recorded / "metrics.jsonl").symlink_to(other)
    done = typed("hmm-risk", "sweep", f"resume={recorded}")
    assert (done.code, "metrics.jsonl" in done.err, "link" in done.err) == (2, True, True)
    assert other.read_text() == "of the user\n"
