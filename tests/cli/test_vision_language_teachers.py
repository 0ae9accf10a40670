"""Teachers with a vision tower through the command: three stages, answers, export, and transformers on the result."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import warm_commands
from lab.core.models.folder import ModelFolder
from warm_commands import Finished, forked_by

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from vision_language_checkpoints import processor_of, read_by, write_internvl, write_llava, write_pictures  # noqa: E402

QUESTION = "<image><image>what is this ?"
NUM_NEW = 6
WRITERS = {"llava": write_llava, "internvl": write_internvl}
# exports choose the architecture around the student
STUDENTS = {
    "granitemoehybrid": ["student=serving", "student.hybrid.number=2"],
    "falcon_h1": ["student=linear", "student.mixer.norm_eps=null"],
}

# what every command on these models loads, which takes longer than most of the commands
STOCK_MODELS = ("transformers.modeling_utils", "transformers.generation.utils", "transformers.loss.loss_utils")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Finished]]:
    """Run the command in a forked process that has loaded what is common to the models."""
    folder = tmp_path_factory.mktemp("commands")
    with warm_commands.command_server(*STOCK_MODELS) as server:
        yield partial(forked_by(server, folder), cwd=folder)


def conversations(folder: Path, pictures: list[Path]) -> Path:
    """One to five pictures in each."""
    lines = []
    for number in range(20):
        count = number % 5 + 1
        shown = [pictures[(number + place) % len(pictures)].name for place in range(count)]
        asked = {"from": "human", "value": "<image>\n" * count + "what is this ?"}
        lines.append({"image": shown, "conversations": [asked, {"from": "gpt", "value": "a red cat ."}]})
    path = folder / "conversations.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("family", WRITERS)
def test_a_teacher_is_distilled_and_its_student_is_exported(
    lab: Callable[..., Finished], outputs: Path, tmp_path: Path, family: str, student: str
) -> None:
    WRITERS[family](tmp_path / "teacher", text="qwen2")
    pictures = write_pictures(tmp_path / "data")
    path = conversations(tmp_path / "data", pictures)

    def typed(*words: str) -> str:
        done = lab(*words)
        assert done.code == 0, done.err
        return done.out

    steps = [f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")]
    typed(
        *("distill", "stage=all", f"teacher={family}", f"teacher.path={tmp_path / 'teacher'}", *STUDENTS[student]),
        *("data=conversations", f"data.conversations.path={path}", "data.conversations.held_out_share=0.3", *steps),
        *("evaluation.num_batches=1", "evaluation.batch_size=2", "prompt.max_tiles=4", "figures=[]"),
    )
    run = next((outputs / "distill" / "runs").iterdir())
    images = [word for picture in pictures[:2] for word in ("--image", str(picture))]

    def answer(model: Path) -> str:
        return typed("generate", str(model), "--prompt", QUESTION, *images, "--max-new-tokens", str(NUM_NEW))

    said = typed("export", str(run), str(tmp_path / "stock"), "--format", "transformers")
    assert f"as {family} around {student}" in said
    # of internvl it reads videos too, with torchvision
    lacks_processor = family == "internvl" and importlib.util.find_spec("torchvision") is None
    assert ("AutoProcessor cannot be used here" in said) == lacks_processor
    assert ("torchvision" in said.lower()) == lacks_processor
    typed("export", str(run), str(tmp_path / "ours"))
    given = answer(run)
    assert given == answer(tmp_path / "stock") == answer(tmp_path / "ours") != ""
    table = tmp_path / "shown.tsv"
    rows = [f"{number}\t{picture}\twhat is this ?\ta red cat ." for number, picture in enumerate(pictures)]
    table.write_text("\n".join(["index\timage_path\tquestion\tanswer", *rows]) + "\n")
    words = ("resamples=20", "threads=1", f"max_new_tokens={NUM_NEW}", f"against={tmp_path / 'teacher'}")
    typed("eval", str(tmp_path / "teacher"), str(tmp_path / "stock"), f"questions:{table}", *words)

    processor = processor_of(tmp_path / "stock")
    prompt = read_by(processor, ["<image>\n<image>\nwhat is this ?"], pictures[:2])
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "stock")
    ends = sorted(ModelFolder(tmp_path / "stock").stop_ids(ModelFolder(tmp_path / "stock").tokenizer()))
    # ids that have no text: lab never chooses them
    padding = list(range(len(processor.tokenizer), model.get_input_embeddings().num_embeddings))
    greedy = {"do_sample": False, "eos_token_id": ends or None, "pad_token_id": 0, "suppress_tokens": padding}
    ids = model.generate(**prompt, **greedy, max_new_tokens=NUM_NEW)
    new = [index for index in ids[0, prompt["input_ids"].shape[1] :].tolist() if index not in ends]
    assert given.split() == processor.tokenizer.decode(new).split()
