"""Data and models of somebody else: no program is run, no file outside is written, and no secret is printed or kept."""

import base64
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults.share import every

from lab.core.benchmarks.images import images_of
from lab.core.data.tiling import load_image
from lab.core.errors import InputError
from lab.experiments.distill.teacher import SHIPPED_FOLDER

pytestmark = pytest.mark.slow

Lab = Callable[..., Any]
SECRET = "PASSWORD7"
# Pillow gives it to the program gs
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n28 28 scale\n%%EOF\n"
TURNS = [{"from": "human", "value": "<image> What is even?"}, {"from": "gpt", "value": "even"}]
_FEW = ("stage_1.steps=1", "stage_1.batch_size=2", "figures=[]", "threads=1")


class Trap:
    """A folder with files of somebody else, a secret beside it, and programs that say when they were run."""

    def __init__(self, root: Path) -> None:
        self.folder, self.secret, self._marks = root / "theirs", root / "secret.txt", root / "marks"
        self.secret.write_text(f"{SECRET}\n" * 30)
        for path in (self.folder, self._marks, root / "bin"):
            path.mkdir()
        for name in ("gs", "sh", "dvips", "convert"):
            program = root / "bin" / name
            program.write_text(f"#!/bin/bash\n/bin/touch {self._marks}/$(/usr/bin/basename $0)\n")
            program.chmod(0o755)
        self.environment = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "SECRET_TOKEN": SECRET}
        self.code = f"open({str(self._marks / 'python')!r}, 'w')\n"

    def refuse_sprung(self, said: Any, *places: Path) -> None:
        """Nothing was run, and the secret is neither in what was said nor in any file of these places."""
        assert list(self._marks.iterdir()) == []
        assert "Traceback" not in said.err
        kept = b"".join(path.read_bytes() for place in places for path in place.rglob("*") if path.is_file())
        assert SECRET not in said.out + said.err
        assert SECRET.encode() not in kept


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


def jsonl(folder: Path, record: Mapping[str, Any]) -> Path:
    path = folder / "chats.jsonl"
    path.write_text(f"{json.dumps(record)}\n" * 20)
    return path


def parquet(folder: Path, record: Mapping[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(record)] * 20), folder / "chats.parquet")
    return folder / "chats.parquet"


def shard(folder: Path, members: Mapping[str, bytes], links: Mapping[str, tuple[bytes, str]] | None = None) -> Path:
    with tarfile.open(folder / "chats.tar", "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, (kind, target) in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return folder / "chats.tar"


SAID = json.dumps({"conversations": TURNS}).encode()
PROGRAM = {"conversations": TURNS, "image": {"bytes": EPS, "path": "a.png"}}
# what `lab data check` and a training are given
DATA: dict[str, Callable[[Trap], Path]] = {
    "a program as a picture beside JSONL": lambda trap: (
        (trap.folder / "a.png").write_bytes(EPS),
        jsonl(trap.folder, {"conversations": TURNS, "image": "a.png"}),
    )[1],
    "a program as a picture in a URL": lambda trap: jsonl(
        trap.folder, {"conversations": TURNS, "image": "data:image/png;base64," + base64.b64encode(EPS).decode()}
    ),
    "a program as a picture in Parquet": lambda trap: parquet(trap.folder, PROGRAM),
    "a program as a picture in a shard": lambda trap: shard(
        trap.folder, {f"{n}.{end}": data for n in range(20) for end, data in (("json", SAID), ("png", EPS))}
    ),
    "a picture outside": lambda trap: jsonl(trap.folder, {"conversations": TURNS, "image": "../secret.txt"}),
    "a picture at the root": lambda trap: jsonl(trap.folder, {"conversations": TURNS, "image": str(trap.secret)}),
    "a picture outside in Parquet": lambda trap: parquet(
        trap.folder, {"conversations": TURNS, "image": {"bytes": None, "path": "../secret.txt"}}
    ),
    "members above a shard": lambda trap: shard(
        trap.folder, {f"../../{n}.{end}": data for n in range(20) for end, data in (("json", SAID), ("png", b"x"))}
    ),
    "members at the root": lambda trap: shard(
        trap.folder, {f"{trap.folder.parent}/{n}.{end}": data for n in range(20) for end, data in (("json", SAID),)}
    ),
    "links in a shard": lambda trap: shard(
        trap.folder,
        {f"{n}.json": SAID for n in range(20)},
        {f"{n}.png": (tarfile.SYMTYPE, str(trap.secret)) for n in range(20)},
    ),
    "hard links in a shard": lambda trap: shard(
        trap.folder, {}, {f"{n}.json": (tarfile.LNKTYPE, str(trap.secret)) for n in range(20)}
    ),
    "a list of data sets that names a file outside": lambda trap: _meta(trap, annotation=str(trap.secret)),
    "a list of data sets that names a folder outside": lambda trap: _meta(
        trap, annotation=str(jsonl(trap.folder, {"conversations": TURNS, "image": "secret.txt"})), root=".."
    ),
    "a link to a file outside": lambda trap: _link(trap, "chats.jsonl"),
    "a folder with a link to a file outside": lambda trap: _link(trap, "chats.jsonl").parent,
}


def _meta(trap: Trap, **entry: str) -> Path:
    path = trap.folder / "meta.json"
    path.write_text(json.dumps({"a": entry}))
    return path


def _link(trap: Trap, name: str) -> Path:
    path = trap.folder / name
    path.symlink_to(trap.secret)
    return path


@pytest.mark.parametrize("name", every(5, list(DATA)))
def test_conversations_of_others_are_data(name: str, trap: Trap, lab: Lab, outputs: Path) -> None:
    path = DATA[name](trap)
    before = {*trap.folder.parent.rglob("*")} - {*outputs.rglob("*")}
    checked = lab("data", "check", str(path), "--held-out-share", "0.5", cwd=trap.folder, env=trap.environment)
    trap.refuse_sprung(checked)
    assert checked.code == 2
    data = (f"data.conversations.path='{path}'", "data.conversations.held_out_share=0.5")
    trained = lab("distill", "stage=1", "data=conversations", *data, *_FEW, cwd=trap.folder, env=trap.environment)
    trap.refuse_sprung(trained, outputs)
    assert trained.code == 2
    assert {*trap.folder.parent.rglob("*")} - {*outputs.rglob("*"), outputs} == before


def test_a_program_is_no_picture_in_any_reader(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", trap.environment["PATH"])
    path = trap.folder / "a.png"
    path.write_bytes(EPS)
    cell = base64.b64encode(EPS).decode()
    for read in (lambda: load_image(path), lambda: images_of({"image": cell}, [])):
        with pytest.raises(InputError, match="not an image that can be read"):
            read()
    assert list((trap.folder.parent / "marks").iterdir()) == []


ROWS = {
    "outside": "../secret.txt",
    "at the root": "{secret}",
    "a program": "a.png",
    "a call": "[__import__('os').system('gs')]",
}


@pytest.mark.parametrize("name", every(3, list(ROWS)))
def test_questions_of_others_are_data(name: str, trap: Trap, lab: Lab, outputs: Path) -> None:
    (trap.folder / "a.png").write_bytes(EPS)
    cell = ROWS[name].format(secret=trap.secret)
    path = trap.folder / "questions.tsv"
    path.write_text(f"index\timage_path\tquestion\tanswer\n0\t{cell}\tWhat is even?\teven\n")
    done = lab("eval", "shipped", f"questions:{path}", "threads=1", cwd=trap.folder, env=trap.environment)
    trap.refuse_sprung(done, outputs)
    assert (done.code, done.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("image", every(2, ["../secret.txt", "{secret}", "a.png"]))
def test_requests_of_others_are_data(image: str, trap: Trap, lab: Lab) -> None:
    (trap.folder / "a.png").write_bytes(EPS)
    path = trap.folder / "requests.jsonl"
    path.write_text(json.dumps({"prompt": "What is even?", "images": [image.format(secret=trap.secret)]}) + "\n")
    done = lab("generate", "shipped", "--requests", str(path), "out.jsonl", cwd=trap.folder, env=trap.environment)
    trap.refuse_sprung(done, trap.folder)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert not (trap.folder / "out.jsonl").exists()


TEMPLATES = [
    "{{ cycler.__init__.__globals__.os.popen('gs').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() | map(attribute='__init__.__globals__') | list }}",
    "{% include '../secret.txt' %}",
    "{% import '/secret.txt' as x %}{{ x }}",
    "{{ strftime_now.__self__.__class__.__module__.__class__ }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].environ }}",
    "{{ (messages | tojson).format.__self__.__class__.__base__.__subclasses__() }}",
]


@pytest.mark.parametrize("template", every(3, TEMPLATES))
def test_templates_of_others_reach_the_conversation_only(template: str, trap: Trap, lab: Lab) -> None:
    pytest.importorskip("tokenizers")
    from reference.text_checkpoint import write_text_checkpoint  # noqa: PLC0415

    model = write_text_checkpoint(trap.folder / "model")
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    words = ("--prompt", "Why?", "--max-new-tokens", "1", "--threads", "1")
    done = lab("generate", str(model), *words, cwd=trap.folder, env=trap.environment)
    trap.refuse_sprung(done)
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_code_beside_a_checkpoint_is_not_run(trap: Trap, lab: Lab, outputs: Path) -> None:
    model = trap.folder / "model"
    shutil.copytree(SHIPPED_FOLDER, model)
    remote = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        content = json.loads((model / name).read_text()) if (model / name).exists() else {}
        (model / name).write_text(json.dumps({**content, "auto_map": remote, "trust_remote_code": True}))
    (model / "evil.py").write_text(trap.code)
    (model / "__init__.py").write_text(trap.code)
    words = ("--prompt", "What is even?", "--max-new-tokens", "1", "--threads", "1")
    done = lab("generate", str(model), *words, cwd=model, env=trap.environment)
    trap.refuse_sprung(done)
    assert done.code == 0, done.err
    run = outputs / "run"
    teacher = (f"teacher.path={model}", "teacher.hovle=null", "evaluation.num_batches=1", "evaluation.batch_size=2")
    done = lab("distill", "stage=1", *teacher, *_FEW, f"hydra.run.dir={run}", cwd=model, env=trap.environment)
    assert done.code == 0, done.err
    for layout in ("mmmamba", "transformers"):
        if layout == "transformers":
            pytest.importorskip("transformers")
        out = trap.folder / layout
        done = lab("export", str(run), str(out), "--format", layout, cwd=model, env=trap.environment)
        trap.refuse_sprung(done)
        assert done.code == 0, done.err
        assert layout == "mmmamba" or not list(out.glob("*.py"))
        done = lab("generate", str(out), *words, cwd=out, env=trap.environment)
        trap.refuse_sprung(done)
        assert done.code == 0, done.err


WORDS = [
    "title=${oc.env:SECRET_TOKEN}",
    "system=${oc.env:SECRET_TOKEN}",
    "+hydra.callbacks.x={_target_: torch.ops.load_library, _args_: [LIB.so]}",
    "++hydra.job.env_set.CXX=gs",
    "--config-dir=.",
]


@pytest.mark.parametrize("word", every(3, WORDS))
def test_an_evaluation_of_others_is_resumed_without_what_does_more(
    word: str, trap: Trap, lab: Lab, outputs: Path
) -> None:
    run = trap.folder / "run"
    run.mkdir()
    (run / "overrides.json").write_text(json.dumps(["models=[shipped]", "tasks=['picture_questions:2']", word]))
    done = lab("eval", f"resume={run}", cwd=trap.folder, env=trap.environment)
    trap.refuse_sprung(done, outputs)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "which can do more than set a key of the study" in done.err


def test_what_a_link_leads_to_is_not_carried_into_an_export(trap: Trap, lab: Lab, outputs: Path) -> None:
    model = trap.folder / "model"
    shutil.copytree(SHIPPED_FOLDER, model)
    (model / "chat_template.jinja").symlink_to(trap.secret)
    run = outputs / "run"
    teacher = (f"teacher.path={model}", "teacher.hovle=null", "evaluation.num_batches=1", "evaluation.batch_size=2")
    done = lab("distill", "stage=1", *teacher, *_FEW, f"hydra.run.dir={run}", env=trap.environment)
    assert done.code == 0, done.err
    for layout in ("mmmamba", "transformers"):
        done = lab("export", str(run), str(trap.folder / layout), "--format", layout, env=trap.environment)
        trap.refuse_sprung(done, trap.folder / layout)
        # a stock folder has a template that is written for it
        assert done.code == (2 if layout == "mmmamba" else 0)
