"""lm-evaluation-harness runs an exported student by its own `hf`, from the folder alone, and finds what `lab` does."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module

from lab.experiments.distill.config import register
from lab.experiments.distill.export import main as export
from lab.experiments.distill.job import execute
from lab.experiments.distill.selector import StudentSelector
from reference.harness_tasks import KINDS, write_tasks
from reference.text_checkpoint import SPECIAL, write_text_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEXT = "which bag is it? the red one, or the blue one. " * 3
SMALL = [
    *("threads=1", "figures=[]", "teacher=llama", "data=text", "stage=all", "data.text.piece_length=24"),
    *("student=serving", "student.hybrid.number=2"),
    *("evaluation.num_batches=1", "evaluation.batch_size=4", "evaluation.num_validation_batches=1"),
    *(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")),
]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained student of a text model as a folder of transformers."""
    for name in ("transformers", "tokenizers"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number}.txt").write_text(TEXT[number:])
    teacher = write_text_checkpoint(tmp_path / "teacher")
    # the tool asks the tokenizer for what ends a text, we a file of the model
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[1]}
    (teacher / "tokenizer_config.json").write_text(json.dumps(settings))
    (teacher / "generation_config.json").write_text(json.dumps({"eos_token_id": SPECIAL.index(SPECIAL[1])}))
    overrides = [*SMALL, f"teacher.path={teacher}", f"data.text.folder={tmp_path / 'texts'}"]
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=overrides)
    run = tmp_path / "outputs" / "distill" / "runs" / "student"
    execute(config, run, overrides)
    said = export("student", tmp_path / "served", StudentSelector(), layout="transformers")
    assert "granitemoehybrid" in said
    return tmp_path / "served"


def test_likelihoods_are_those_of_lab(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    lm_eval = pytest.importorskip("lm_eval")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tasks(tasks, ["which bag is it?", "the red"], [" the red one", " one", " it"], TEXT)
    managed = importlib.import_module("lm_eval.tasks").TaskManager(include_path=str(tasks), include_defaults=False)

    def found(**model: Any) -> Any:
        return lm_eval.simple_evaluate(
            tasks=list(KINDS), task_manager=managed, bootstrap_iters=0, batch_size=1, **model
        )

    theirs = found(model="hf", model_args=f"pretrained={served},dtype=float32", device="cpu")
    # of the run, not of the folder
    ours = found(model=importlib.import_module("lab.experiments.eval.harness").TextModel("student", device="cpu"))
    assert len(theirs["samples"]["choices"]) == 2
    for own, other in zip(ours["samples"]["choices"], theirs["samples"]["choices"], strict=True):
        for (value, is_greedy), (expected, was_greedy) in zip(
            own["filtered_resps"], other["filtered_resps"], strict=True
        ):
            assert float(value) == pytest.approx(float(expected), abs=1e-4)
            assert is_greedy == was_greedy
    bits = [found["results"]["texts"]["bits_per_byte,none"] for found in (ours, theirs)]
    assert bits[0] == pytest.approx(bits[1], abs=1e-4)
    answers = [[sample["filtered_resps"] for sample in found["samples"]["answers"]] for found in (ours, theirs)]
    assert answers[0] == answers[1]
