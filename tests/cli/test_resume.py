"""The command line behind resume=: what is taken from the folder, and what the user types beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab.cli.resume import resumed
from lab.core.errors import RunError
from lab.experiments.hmm_risk import SPEC
from lab.experiments.spec import function_of


@pytest.fixture(autouse=True)
def _registered() -> None:
    function_of(SPEC.register)()


def sweep_of(folder: Path, **more: Any) -> Path:
    """A sweep of two seeds, as Hydra records it."""
    content = {"hydra": {"overrides": {"task": ["seed=5,6"]}, **more}}
    # JSON is YAML
    (folder / "multirun.yaml").write_text(json.dumps(content))
    return folder


def going_on(*words: str) -> list[str]:
    return resumed(words, study=SPEC)


@pytest.mark.parametrize("subdir", ["seed_${seed}", "seed/${seed}-${hydra:job.num}"])
def test_points_are_found_in_their_folders_whatever_these_are_called(subdir: str, tmp_path: Path) -> None:
    sweep_of(tmp_path, sweep={"subdir": subdir}, sweeper={"params": None})
    last = f"hydra.sweep.dir='{tmp_path}'"
    assert going_on(f"resume={tmp_path}") == ["--multirun", "seed=5,6", f"hydra.sweep.subdir='{subdir}'", last]
    typed = "hydra.sweep.subdir=seed-${seed}"
    assert going_on(f"resume={tmp_path}", typed) == ["--multirun", "seed=5,6", typed, last]
    sweep_of(tmp_path, sweep={"subdir": "${hydra:job.num}"})
    assert going_on(f"resume={tmp_path}") == ["--multirun", "seed=5,6", last]


@pytest.mark.parametrize("subdir", ["${oc.env:HOME}", "../${seed}", "/tmp/${seed}", "${hydra:job.num}${oc.env:HOME}"])
def test_a_recorded_name_that_leads_elsewhere_is_refused_unless_it_is_typed(subdir: str, tmp_path: Path) -> None:
    sweep_of(tmp_path, sweep={"subdir": subdir})
    with pytest.raises(RunError) as caught:
        going_on(f"resume={tmp_path}")
    assert f"holds hydra.sweep.subdir={subdir}, which can do more than name a folder" in str(caught.value)
    assert str(caught.value).endswith(f"type 'hydra.sweep.subdir={subdir}' beside resume=")
    assert f"hydra.sweep.subdir={subdir}" in going_on(f"resume={tmp_path}", f"hydra.sweep.subdir={subdir}")


def test_values_of_the_sweeper_are_swept_again(tmp_path: Path) -> None:
    sweep_of(tmp_path, sweeper={"params": {"num_train": "20,30"}})
    assert going_on(f"resume={tmp_path}")[:3] == ["--multirun", "num_train=20,30", "seed=5,6"]
    sweep_of(tmp_path, sweeper={"params": {"hydra.callbacks": "evil"}})
    with pytest.raises(RunError, match="can do more than set a key"):
        going_on(f"resume={tmp_path}")


@pytest.mark.parametrize("places", [("--config-dir", "mine"), ("--config-dir=mine",), ("-cd", "mine")])
def test_a_folder_of_configuration_is_typed_again(places: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "overrides.json").write_text('["experiment=hmm_risk/mine"]')
    expected = ["experiment=hmm_risk/mine", f"hydra.run.dir='{tmp_path}'", *places]
    assert going_on(*places, f"resume={tmp_path}") == expected
    # nothing that is checked later looks at such a command
    (tmp_path / "lab.log").symlink_to("/etc/profile")
    with pytest.raises(RunError, match=r"lab\.log is a link"):
        going_on(*places, f"resume={tmp_path}")


def test_a_point_is_below_the_folder_of_its_sweep(typed: Any, outputs: Path) -> None:
    for subdir in ("../${seed}", "."):
        done = typed("hmm-risk", "sweep", "-m", "seed=1,2", f"hydra.sweep.subdir={subdir}", "--dry-run")
        assert (done.code, "is not below" in done.err, outputs.exists()) == (2, True, False), done.err
