"""Files that must be refused: numbers of config.json, tensors, vocabularies, images, conversations, run folders."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.bad_inputs import Case

from lab.experiments.distill.teacher import SHIPPED_FOLDER

# as they stand in a JSON file: NaN and infinity are read by Python, and 1e400 is infinity
NUMBERS = ("NaN", "Infinity", "1e400", "-1", "0", "1e300", "1000000000000", '"word"', '"ünï"', "[]", "{}", "true")

# sections and keys of config.json, with the values that change nothing
KEYS = {
    ("llm_config", "hidden_size"): "",
    ("llm_config", "intermediate_size"): "",
    ("llm_config", "num_hidden_layers"): "",
    ("llm_config", "num_attention_heads"): "",
    ("llm_config", "num_key_value_heads"): "",
    ("llm_config", "head_dim"): "",
    ("llm_config", "vocab_size"): "",
    ("llm_config", "rms_norm_eps"): "",
    ("llm_config", "rope_theta"): "1000000000000",
    ("llm_config", "max_position_embeddings"): "1000000000000",
    ("embedding_config", "num_hidden_layers"): "",
    ("embedding_config", "image_size"): "",
    ("embedding_config", "patch_size"): "",
    ("embedding_config", "num_channels"): "",
    ("embedding_config", "downsample_ratio"): "",
    ("embedding_config", "img_context_token_id"): "0",
}

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(range(256)) * 40,
    "long header": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "no header": lambda data: bytes(8) + data[8:],
    "other bytes": lambda data: data[:8] + b"[" + data[9:],
}


def cases(folder: Path) -> Iterator[Case]:
    """Make each file in a folder, and the command that reads it."""
    yield from _configs(folder / "configs")
    yield from _damaged(folder / "damaged")
    yield from _images(folder / "images")
    yield from _conversations(folder / "conversations")
    yield from _texts(folder / "texts")
    yield from _runs(folder / "runs")


def _generate(model: Path, *words: str) -> Case:
    return Case(("generate", str(model), "--prompt", "How many pictures show a bag?", "--max-new-tokens", "1", *words))


def _distill(model: Path) -> Case:
    small = ("stage_1.steps=1", "stage_1.batch_size=2", "evaluation.num_batches=1", "figures=[]")
    return Case(("distill", "stage=1", f"teacher.path={model}", "teacher.hovle=null", *small))


def _copy(target: Path) -> Path:
    shutil.copytree(SHIPPED_FOLDER, target)
    return target


def _configs(folder: Path) -> Iterator[Case]:
    for (section, key), fine in KEYS.items():
        for number, value in enumerate(NUMBERS):
            if value in fine.split():
                continue
            model = _copy(folder / f"{section}.{key}.{number}")
            content = json.loads((model / "config.json").read_text())
            content[section][key] = "PLACE"
            (model / "config.json").write_text(json.dumps(content).replace('"PLACE"', value))
            yield (_distill if number % 2 else _generate)(model)


def _damaged(folder: Path) -> Iterator[Case]:
    for name in ("config.json", "model.safetensors", "vocabulary.json"):
        for damage, change in DAMAGES.items():
            model = _copy(folder / f"{name} {damage}")
            (model / name).write_bytes(change((model / name).read_bytes()))
            yield _generate(model)
        model = _copy(folder / f"{name} missing")
        (model / name).unlink()
        yield _distill(model)
        model = _copy(folder / f"{name} folder")
        (model / name).unlink()
        (model / name).mkdir()
        yield _generate(model)


def _images(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    contents = {
        "empty.png": b"",
        "text.png": b"no image",
        "cut.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x10",
        "huge.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"\x7f\xff\xff\xff" * 2 + b"\x08\x02" + bytes(7),
        "huge.bmp": b"BM" + bytes(12) + b"(\x00\x00\x00\xff\xff\xff\x7f\xff\xff\xff\x7f\x01\x00\x18\x00" + bytes(24),
        "some.gif": b"GIF89a\xff\xff\xff\xff",
        "ünï.jpg": b"\xff\xd8\xff\xe0",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        yield _generate(SHIPPED_FOLDER, "--image", str(folder / name))
    yield _generate(SHIPPED_FOLDER, "--image", str(folder))
    yield _generate(SHIPPED_FOLDER, "--image", str(folder / "missing.png"))


def _conversations(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    lines = {
        "empty": "",
        "no JSON": "word\n",
        "a number": "1e400\n",
        "a list": "[]\n",
        "nothing in it": "{}\n",
        "null": '{"conversations": null}\n',
        "one turn": '{"conversations": [{"from": "human", "value": "Same?"}]}\n' * 20,
        "numbers": '{"conversations": [{"from": 1, "value": NaN}, {"from": 2, "value": []}]}\n' * 20,
        "nested": "[" * 100_000 + "\n",
        "digits": '{"image": ' + "1" * 5000 + "}\n",
        "no image": '{"image": "missing.png", "conversations": []}\n' * 20,
    }
    for name, text in lines.items():
        (folder / f"{name}.jsonl").write_text(text)
        data = (f"data.conversations.path='{folder}/{name}.jsonl'", f"data.conversations.image_folder='{folder}'")
        yield Case(("distill", "stage=1", "data=conversations", *data, "stage_1.steps=1", "figures=[]"))
    (folder / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    data = (f"data.conversations.path='{folder}/bytes.jsonl'", f"data.conversations.image_folder='{folder}'")
    yield Case(("distill", "stage=1", "data=conversations", *data, "stage_1.steps=1", "figures=[]"))


def _texts(folder: Path) -> Iterator[Case]:
    for name, content in (("empty", None), ("bytes", b"\xff\xfe\x00"), ("short", b"word"), ("blank", b"")):
        (folder / name).mkdir(parents=True)
        if content is not None:
            (folder / name / "a.txt").write_bytes(content)
        yield Case(("distill", "stage=1", "data=text", f"data.text.folder={folder / name}", "stage_1.steps=1"))


def _runs(folder: Path) -> Iterator[Case]:
    contents = ("", "word", "NaN", "[]", "{}", "[1]", '["ünï"]', "null", "[" * 100_000, '{"stage": 1e400}')
    for number, content in enumerate(contents):
        run = folder / f"distill/runs/run{number}"
        run.mkdir(parents=True)
        for name in ("overrides.json", "config.json", "status.json", "provenance.json"):
            (run / name).write_text(content)
        yield Case(("distill", f"resume={run}"))
        yield Case(("hmm-risk", "sweep", f"resume={run}"))
        yield Case(("export", str(run), "out"))
        yield _generate(run)
