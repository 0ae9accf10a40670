"""Students of the included teacher after three short stages: transformers computes what they do, pictures included."""

from itertools import product
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from stock_homes import home, name_of

from drawn import one_in
from lab.core.data.tokenizers import load_tokenizer
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.stock.verify import NUM_NEW, TOLERANCE, verify
from lab.experiments.distill.config import DistillConfig, register
from lab.experiments.distill.data import Data
from lab.experiments.distill.export import main as export
from lab.experiments.distill.job import execute
from lab.experiments.distill.load import load_finished
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.sources import choose_node, find_recorded
from lab.experiments.distill.teacher import SHIPPED_FOLDER

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CPU = torch.device("cpu")
NUM_QUESTIONS = 3
SMALL = [
    *("stage=all", "threads=1", "figures=[]"),
    *("evaluation.num_batches=1", "evaluation.batch_size=4", "evaluation.num_validation_batches=1"),
    *(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=4", "batch_size=4")),
]
ORDERS = {"norm first": "true", "gate first": "false"}
CASES = one_in(4, list(product(ORDERS, ("linear", "hybrid"), (2, 4))), of="trained")


def questions(model: LanguageModel, config: DistillConfig) -> list[Inputs]:
    """Held-out questions about pictures, without their answers."""
    data = Data(config.data, config.prompt, model.config, load_tokenizer(SHIPPED_FOLDER), seed=config.seed)
    asked = []
    for batch in data.held_out(NUM_QUESTIONS, batch_size=1):
        assert len(batch.pixel_values)
        asked.append(Inputs(tokens=batch.llm_ids[:, : batch.answers[0].start], pixel_values=batch.pixel_values))
    return asked


@pytest.mark.parametrize(("order", "kept", "kernel"), CASES)
def test_transformers_computes_what_a_trained_student_does(
    order: str, kept: str, kernel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    overrides = [
        *(f"student={kept}", f"student.mixer.norm_before_gate={ORDERS[order]}"),
        f"student.mixer.conv_kernel={kernel}",
    ]
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=[*SMALL, *overrides])
    execute(config, tmp_path / "outputs" / "distill" / "runs" / "run", overrides)
    said = export("run", tmp_path / "student", StudentSelector(), layout="transformers")
    expected = home("hovle", order, kept)
    assert expected is not None
    assert f"after stage 3 as {name_of('hovle', expected)}, because" in said
    run = find_recorded("run")
    student = load_finished(run, choose_node(run, StudentSelector()), device=CPU)
    untrained = load_finished(run, choose_node(run, StudentSelector(stage=0)), device=CPU)
    for before, after in zip(untrained.converted_layers(), student.converted_layers(), strict=False):
        assert not before.layer.mixer.g_norm.weight.equal(after.layer.mixer.g_norm.weight)
    (tmp_path / "student" / "SHA256SUMS").unlink()
    for question in questions(student, run.config):
        found = verify(tmp_path / "student", student, question)
        assert (found.limit, found.num_tokens) == (TOLERANCE, NUM_NEW)
