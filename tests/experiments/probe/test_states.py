"""States on disk are those of the model, computed once; a run is compared stage by stage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.core.data.texts import SplitBy, TextConfig
from lab.core.errors import LabError, RunError
from lab.core.native.cache import library_folder, user_cache
from lab.experiments.distill.data_sources import DataConfig
from lab.experiments.distill.load import open_model
from lab.experiments.distill.opened_model import OpenedModel
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.tasks.picture_questions import SOURCE
from lab.experiments.probe.results import Results
from lab.experiments.probe.states import StateRequest, States, states_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without states, with the loops that are compiled on this machine."""
    compiled = user_cache() / "native"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in compiled.glob("*.so"):
        shutil.copy2(path, library_folder())


@pytest.fixture(scope="module")
def shipped() -> OpenedModel:
    return open_model("shipped", StudentSelector(), device=torch.device("cpu"), precision=None)


def states(opened: OpenedModel, num_contexts: int = 11) -> States:
    data = DataConfig(picture_questions=SOURCE.options())
    request = StateRequest(layers=(5, 8), num_contexts=num_contexts, skip=3, answers_only=True, seed=0)
    return states_of(opened, data, request, "teacher")


def test_the_last_state_gives_the_logits_of_the_model(shipped: OpenedModel) -> None:
    found = states(shipped)
    last = torch.from_numpy(np.array(found.layer(8)))
    model = shipped.model
    scores = model.logits(model.llm.norm(last)).argmax(dim=1).numpy()  # type: ignore[union-attr, operator]
    # the teacher knows most answers, and their ends
    assert np.mean(scores == found.following_ids[found.following]) > 0.8
    assert sorted(set(found.contexts.tolist())) == list(range(11))
    weight = model.input_embedding.weight.detach().numpy()
    np.testing.assert_array_equal(found.embedding, weight[found.following_ids])


def test_states_are_computed_once_and_again_if_they_were_damaged(
    shipped: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = states(shipped)
    calls = []
    plain = type(shipped.model).hidden
    monkeypatch.setattr(type(shipped.model), "hidden", lambda self, inputs: calls.append(1) or plain(self, inputs))
    again = states(shipped)
    assert not calls
    np.testing.assert_array_equal(again.layer(5), first.layer(5))
    before = np.array(first.layer(5))
    path = first.folder / "layer-5.f32"
    path.write_bytes(path.read_bytes()[:-8])
    np.testing.assert_array_equal(states(shipped).layer(5), before)
    assert calls
    calls.clear()
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(states(shipped).layer(5), before)
    assert calls


def test_states_of_a_text_that_was_changed_are_others(shipped: OpenedModel, tmp_path: Path) -> None:
    def name(text: str) -> str:
        (tmp_path / "text.txt").write_text(text)
        data = DataConfig(text=TextConfig(folder=tmp_path / "text.txt", piece_length=20, split_by=SplitBy.position))
        request = StateRequest(layers=(8,), num_contexts=3, skip=2, answers_only=False, seed=0)
        return states_of(shipped, data, request, "teacher").name

    first = name("How many pictures show a bag ? " * 60)
    assert name("How many pictures show a bag ? " * 60) == first
    assert name("How many pictures show a boot ? " * 60) != first


def test_a_run_does_not_go_on_with_other_states(probe: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("How many pictures show a bag ? " * 100)
    words = ["model=shipped", "data=text", f"data.text.folder={text}", "data.text.piece_length=20", "skip=2"]
    words += ["data.text.split_by=position", "num_contexts=20", "num_train=[6]", "widths=[3]", "ridge=[0.1]"]
    words += ["draws=3", "folds=0", "layers=[8]", "figures=[]"]
    folder = probe(*words)
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))
    for name in ("table.parquet", "summary.json", "SHA256SUMS", "status.json"):
        (folder / name).unlink()
    text.write_text("How many pictures show a boot ? " * 100)
    with pytest.raises(RunError, match="layer 8: the model, or what it reads, was changed"):
        probe(*words)


@pytest.mark.slow
def test_a_run_is_compared_stage_by_stage(
    probe: Callable[..., Path], results_of: Callable[[Path], Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra import compose, initialize_config_module  # noqa: PLC0415

    from lab.experiments.distill.config import register  # noqa: PLC0415
    from lab.experiments.distill.job import execute  # noqa: PLC0415

    monkeypatch.setenv("LAB_OUTPUTS", str(tmp_path / "outputs"))
    few = [f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")]
    few += [f"evaluation.{key}" for key in ("num_batches=1", "batch_size=4", "num_validation_batches=1")]
    hybrid = "{student:{hybrid:{placement:head_interleaved,number:4}}}"
    variants = ["+variants.linear={student:{hybrid:{placement:none}}}", f"+variants.mixed={hybrid}"]
    words = ["stage=all", "threads=1", "figures=[]", *variants, *few]
    register()
    with initialize_config_module("lab.conf", version_base="1.3"):
        config = compose("distill", overrides=words)
    execute(config, tmp_path / "outputs" / "distill" / "runs" / "student", words)
    words = ["run=student", "num_contexts=60", "layers=[8]", "widths=[8,64]", "figures=[layers]"]
    folder = probe(*words, "num_train=[40]")
    names = [curve["curve"] for curve in results_of(folder).curves]
    # variants share the first stages
    stages = [f"{name}, layer 8" for name in ("after stage 1", "after stage 2")]
    stages += [f"{name}, after stage 3, layer 8" for name in ("linear", "mixed")]
    assert names == ["teacher, layer 8", "untrained student, layer 8", *stages]
    assert "than teacher" in (folder / "summary.json").read_text()

    words[1:4] = ["num_contexts=110", "layers=[7,8]", "widths=[64]"]
    folder = probe(*words, "num_train=[100]", "ridge=[0]", "target=teacher_state", name="of-teacher")
    risks = {point.curve: point.mean for point in results_of(folder).points}
    # the teacher's last state is a linear function of itself, and of no other
    assert abs(risks.pop("teacher, layer 8")) < 1e-12
    assert len(risks) == 11
    assert min(risks.values()) > 0.01


def test_the_teacher_s_state_is_a_target_in_runs_alone(probe: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LabError, match="target=teacher_state belongs to run=RUN"):
        probe("model=shipped", "data=picture_questions", "target=teacher_state")
    assert not (tmp_path / "run").exists()
