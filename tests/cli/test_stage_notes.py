"""What a stage goes on from, what it trains and its loss at the start: in stages.json, and shown."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.core.runs.sums import SUMS
from lab.experiments.distill.load import load_finished
from lab.experiments.distill.model_card import training
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.sources import choose_node, find_recorded
from lab.experiments.distill.stage_notes import expected_of

Typed = Callable[..., Any]


def notes(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "stages.json").read_text())["stages"]
    return found


def test_a_stage_says_what_it_goes_on_from_and_what_it_trains(distilled: Any, typed: Typed) -> None:
    runs = distilled.root / "distill" / "runs"
    (first,), (second,) = notes(runs / "first"), notes(runs / "second")
    assert (first["source"], first["digest"], first["initialisation"]) == (None, None, "mimic")
    checkpoint = Path(second["source"])
    assert checkpoint.parent.parent == runs / "first" / "checkpoints"
    assert second["digest"] == hashlib.sha256((checkpoint / "meta.json").read_bytes()).hexdigest()

    recorded = find_recorded(str(runs / "second"))
    student = load_finished(recorded, choose_node(recorded, StudentSelector()), device=torch.device("cpu"))
    mixers = [layer.layer.mixer for layer in student.mixer_layers()]
    total = sum(parameter.numel() for parameter in student.parameters())
    inherited = sum(mixer.vkq_proj.weight.numel() for mixer in mixers)
    all_mixers = sum(parameter.numel() for mixer in mixers for parameter in mixer.parameters())
    output = sum(mixer.o_proj.weight.numel() for mixer in mixers)
    assert second["parameters"] == all_mixers - output
    assert first["parameters"] == second["parameters"] - inherited
    groups = {group["name"]: group for group in second["trained"]}
    assert groups["vkq_proj"]["parameters"] == inherited
    assert groups["A_log"]["parameters"] == sum(mixer.A_log.numel() for mixer in mixers)
    assert "vkq_proj" not in {group["name"] for group in first["trained"]}
    assert second["share"] == pytest.approx(second["parameters"] / total, rel=1e-12)
    assert sum(group["share"] for group in second["trained"]) == pytest.approx(second["share"], rel=1e-12)

    rows = map(json.loads, (runs / "second" / "metrics.jsonl").read_text().splitlines())
    (start,) = [row["loss"] for row in rows if row["kind"] == "validation" and row["step"] == 0]
    assert second["start_loss"] == start
    assert "stages.json" in (runs / "second" / SUMS).read_text()

    shown = typed("show", str(runs / "second"))
    assert shown.code == 0, shown.err
    assert f"stage 2, replicate 0, goes on from {checkpoint} (SHA-256 {second['digest'][:12]}…)" in shown.out
    assert f"it trains {second['parameters']:,} parameters" in shown.out
    assert f"its held-out loss is {start:.4g} before the first step" in shown.out
    assert json.loads(typed("show", str(runs / "second"), "--json").out)["stages"]["stages"] == [second]


def test_stages_of_one_run_go_on_from_each_other(distilled: Any, typed: Typed) -> None:
    folder = distilled.root / "distill" / "runs" / "hybrid"
    first, second, third = notes(folder)
    assert [note["stage"] for note in (first, second, third)] == [1, 2, 3]
    assert f"stage_1-{first['unit']}" in second["source"]
    assert f"stage_2-{second['unit']}" in third["source"]
    # softmax layers, and how fast states forget, are not trained any more
    assert third["parameters"] < second["parameters"]
    assert "A_log" not in {group["name"] for group in third["trained"]}
    several = typed("show", str(folder.parent / "several")).out
    assert several.count("goes on from") == 2
    assert "2 more stages are in" in several


def test_a_model_card_lists_the_stages_of_the_run_before_or_what_is_recorded_of_it(
    distilled: Any, tmp_path: Path
) -> None:
    runs = distilled.root / "distill" / "runs"

    def card_of(folder: Path) -> list[str]:
        run = find_recorded(str(folder))
        return training(run, choose_node(run, StudentSelector()))

    def stages_in(lines: list[str]) -> list[str]:
        return [line.split()[1] for line in lines if line.startswith("| ") and line.split()[1].isdecimal()]

    (note,) = notes(runs / "second")
    name = note["source"].partition("/runs/")[2]
    card = card_of(runs / "second")
    assert stages_in(card) == ["1", "2"]
    assert card[-1] == f"Stage 2 went on from `{name}`, whose stages are listed too."
    assert stages_in(card_of(runs / "first")) == ["1"]
    assert stages_in(card_of(runs / "hybrid")) == ["1", "2", "3"]
    # the run before is gone
    folder = tmp_path / "second"
    shutil.copytree(runs / "second", folder)
    note["source"] = note["source"].replace("/first/", "/gone/")
    (folder / SUMS).unlink()
    (folder / "stages.json").write_text(json.dumps({"expected": None, "stages": [note]}))
    card = card_of(folder)
    assert stages_in(card) == ["2"]
    gone = name.replace("first", "gone")
    assert card[-1] == (
        f"Stage 2 went on from `{gone}`, SHA-256 {note['digest'][:12]}…; how that was trained is not recorded here any "
        "more."
    )


def test_what_one_should_expect_is_what_the_experiment_says() -> None:
    words = expected_of(["seed=1", "experiment=distill/smollm2"])
    assert words is not None
    assert words.startswith("Expected for the untrained student and after each stage: divergence")
    assert expected_of(["stage=all"]) is None
    assert expected_of(["experiment=distill/nothing"]) is None
