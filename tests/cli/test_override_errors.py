"""Overrides whose key does not exist end in one line that says what to write instead."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# longer than a quick test may take
pytestmark = pytest.mark.slow

Typed = Callable[..., Any]
LLAMA = ("teacher=llama", "teacher.path=Y")
HOVLE = "teacher.hovle is null with teacher=llama; choose teacher=hovle_2p6b, hovle_tiny or named_digits"
TEXT = "data.text is null with data=picture_questions; choose data=text"
DISCRETE = "there is no key hmm.num_states with hmm=orthogonal_modes; choose hmm=dirichlet or permutations"

DISTILL = {
    "below null": (["data.text.folder=X"], f"data.text.folder=X: {TEXT}"),
    "far below null": (["data.text.folder.deeper=X"], f"data.text.folder.deeper=X: {TEXT}"),
    "a mapping for null": (["data.text={folder:X}"], f"data.text={{folder:X}}: {TEXT}"),
    "a required key": (
        ["data=text", "data.conversations.path=X"],
        "data.conversations.path=X: data.conversations is null with data=text; choose data=conversations",
    ),
    "added": (["+data.text.folder=X"], f"+data.text.folder=X: {TEXT}"),
    "added by force": (["++data.text.folder=X"], f"++data.text.folder=X: {TEXT}"),
    "deleted": (["~data.text.folder"], f"~data.text.folder: {TEXT}"),
    "swept": (["-m", "data.text.folder=X,Y"], f"data.text.folder=X: {TEXT}"),
    "in one point of a sweep": (
        ["-m", "data=named_digits,text", "data.named_digits.num_pictures=5", "teacher=named_digits"],
        "data.named_digits.num_pictures=5: data.named_digits is null with data=text; choose data=named_digits",
    ),
    "printed only": (["data.text.folder=X", "--cfg", "job"], f"data.text.folder=X: {TEXT}"),
    "information only": (["data.text.folder=X", "--info"], f"data.text.folder=X: {TEXT}"),
    "in a chosen option": ([*LLAMA, "teacher.hovle.llm.num_layers=3"], f"teacher.hovle.llm.num_layers=3: {HOVLE}"),
    "in an experiment": (
        ["experiment=distill/smollm2", "teacher.path=Y", "teacher.hovle.llm.num_layers=3"],
        f"teacher.hovle.llm.num_layers=3: {HOVLE}",
    ),
    "null by an override": (
        ["teacher.hovle=null", "teacher.hovle.llm.num_layers=3"],
        "teacher.hovle.llm.num_layers=3: teacher.hovle is null because of teacher.hovle=null; leave one of the two out",
    ),
    "below a number": (["seed.x=3"], "seed.x=3: seed is a single value and has no keys; write seed=VALUE"),
    "below a missing number": (
        ["prompt.max_length.x=3"],
        "prompt.max_length.x=3: prompt.max_length is a single value and has no keys; write prompt.max_length=VALUE",
    ),
    "in a list": (
        ["stages.x=3"],
        "stages.x=3: stages is a list; write the whole of it, as 'stages=[VALUE,...]'",
    ),
    "misspelt": (
        ["data.texts.folder=X"],
        "data.texts.folder=X: unknown key; did you mean text? (--help lists all keys)",
    ),
    "misspelt and added": (
        ["+data.texts.folder=X"],
        "+data.texts.folder=X: unknown key; did you mean text? (--help lists all keys)",
    ),
    "unknown and added": (["+nothing=3"], "+nothing=3: unknown key; --help lists all keys"),
    "a label that is not there": (
        ["variants.a.stages=[1]"],
        "variants.a.stages=[1]: there is no key variants.a; write +variants.a.stages=[1] to add it",
    ),
    "a list for a number": (
        ["stage_1.steps=[2]"],
        "stage_1.steps=[2]: Value '[2]' of type 'list' could not be converted to Integer; give one whole number",
    ),
    "a number for a list of an architecture": (
        ["teacher.hovle.llm.windowed_layers=3"],
        "teacher.hovle.llm.windowed_layers=3: Invalid value assigned: int is not a ListConfig, list or tuple; give a "
        "list, as in 'KEY=[1,2]'",
    ),
    "a number for true or false": (
        ["student.mixer.qk_norm=3"],
        "student.mixer.qk_norm=3 must be true or false; write student.mixer.qk_norm=true",
    ),
    "a word for true or false, in a mapping": (
        ["stage_2={train_decay:no}"],
        "stage_2.train_decay=no must be true or false; write stage_2.train_decay=false",
    ),
    "swept, a number for true or false": (
        ["-m", "packing=true,0"],
        "packing=0 must be true or false; write packing=false",
    ),
    "a name for a number in a list": (["stages=x"], "stages=x: give whole numbers, one or a list as in [1,2]"),
    "null for a group": (
        ["student=null"],
        "student=null: a group cannot be null; choose from hybrid, linear",
    ),
    "null for a part": (["stage_1=null"], "stage_1=null: it cannot be null; give a value"),
    "left out": (["~data"], "data must be given; write data=VALUE"),
}
# one of each kind of answer; composing takes most of the time, so the rest are slow tests
QUICK = (
    "a list for a number",
    "a number for true or false",
    "a name for a number in a list",
    "below null",
    "swept",
    "printed only",
    "null by an override",
    "below a number",
    "in a list",
    "misspelt",
    "null for a group",
)
HMM_RISK = {
    "of another option": (["hmm.num_states=4"], f"hmm.num_states=4: {DISCRETE}"),
    "of another option, added": (["+hmm.num_states=4"], f"+hmm.num_states=4: {DISCRETE}"),
    "a mapping for a list": (["ridge={a:1}"], "ridge={a:1}: Cannot merge DictConfig with ListConfig; give a list"),
    "below a number": (["num_train.a.b=3"], "num_train.a.b=3: num_train is a single value and has no keys; write num"),
}


def check_refused(typed: Typed, tmp_path: Path, words: list[str], says: str) -> None:
    done = typed(*words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(f"lab: {says}")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def _place(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [pytest.param(*DISTILL[name], id=name, marks=() if name in QUICK else pytest.mark.slow) for name in DISTILL],
)
def test_a_key_of_a_distillation_that_does_not_exist(typed: Typed, tmp_path: Path, words: list[str], says: str) -> None:
    check_refused(typed, tmp_path, ["distill", "stage=1", *words], says)


@pytest.mark.parametrize(("words", "says"), HMM_RISK.values(), ids=HMM_RISK.keys())
def test_a_key_of_a_sweep_that_does_not_exist(typed: Typed, tmp_path: Path, words: list[str], says: str) -> None:
    check_refused(typed, tmp_path, ["hmm-risk", "sweep", *words], says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("data: {text: {folder: X}}", "data must have exactly one source but has picture_questions, text; choose"),
        ("data: {texts: {folder: X}}", "In 'experiment/mine': ConfigKeyError raised while composing config"),
        pytest.param(
            "seed: {x: 3}",
            "In 'experiment/mine': ValidationError raised while composing config",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "stage: [1",
            "experiment=mine: while parsing a flow sequence; --help lists groups and keys",
            marks=pytest.mark.slow,
        ),
        ("hydra: {mode: MULTIRUN, sweeper: {params: {data.text.folder: 'X,Y'}}}", f"data.text.folder=X: {TEXT}"),
    ],
    ids=["second part", "misspelt", "below a number", "no YAML", "swept"],
)
def test_an_experiment_of_the_user_with_a_key_that_does_not_exist(
    typed: Typed, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, content: str, says: str
) -> None:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    words = ["distill", "stage=1", f"hydra.searchpath=[file://{folder}]", "experiment=mine"]
    check_refused(typed, tmp_path, words, says)


def test_a_recorded_run_whose_keys_do_not_exist_any_more(
    typed: Typed, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "overrides.json").write_text(json.dumps(["stage=1", "data.text.folder=X"]))
    for name in ("status.json", "config.json"):
        (folder / name).write_text("{}")
    check_refused(typed, tmp_path, ["distill", f"resume={folder}"], f"data.text.folder=X: {TEXT}")
