"""What `lab eval` must refuse: models, tasks, options, TSV files, and runs that it is to go on with."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from faults.bad_inputs import Case

from reference.toy_evaluation import picture

WORDS = (
    *((word, "picture_questions:4") for word in ("nothing", "", "ünï", "/", "/dev/null", "no.gguf", "a" * 5000, "..")),
    *((f"shipped@{word}", "picture_questions:4") for word in ("1", "9", "word", "1:a:b", "1:a:999999999999", "*")),
    *(("shipped", f"picture_questions:{word}") for word in ("0", "-1", "nan", "1e300", "word", "1" * 5000, "5 ")),
    *(("shipped", f"easy_vqa:{word}") for word in ("0", "-1", "word")),
    *(("shipped", f"text:{word}") for word in ("gone", "", "/dev/null", "/dev/zero", "a" * 5000, "ünï")),
    *(("shipped", f"{kind}:gone.tsv") for kind in ("mme", "pope", "likelihood", "nothing", "questions", "mm_vet")),
    *(("shipped", word) for word in ("gone.tsv", "POPE.tsv", ".tsv", "/dev/null.tsv", "likelihood:", "text:", "mme:")),
    ("shipped",),
    ("picture_questions:4",),
    ("shipped", "shipped", "picture_questions:4"),
    ("shipped", "picture_questions:4", "picture_questions:4"),
    ("shipped", "picture_questions:4", "models=shipped"),
    ("shipped", "picture_questions:4", "tasks=[picture_questions]"),
    ("shipped", "picture_questions:4", "against=nothing"),
    ("shipped", "picture_questions:4", "against="),
    ("shipped", "picture_questions:4", "against=[shipped]"),
    ("shipped", "picture_questions:4", "resume=nothing"),
    ("shipped", "picture_questions:4", "resume="),
    ("resume=nothing",),
    ("--nothing",),
    (),
    ("models=3", "tasks=3"),
    ("models=[]", "tasks=[]"),
    ("models=null", "tasks=null"),
    ("models=[[shipped]]", "tasks=[picture_questions]"),
    ("models={a: shipped}", "tasks=[picture_questions]"),
    ("shipped", "picture_questions:4", "hydra.run.dir="),
    ("shipped", "picture_questions:4", "+nothing=1"),
    ("shipped", "text:python"),
)
_NUMBERS = ("nan", "inf", "-1", "0", "1e300", "1000000000000", "word", "[]", "{a:1}")
# keys, and the values that are fine
KEYS: Mapping[str, str] = {
    "window": "",
    "num_sinks": "0",
    "limit": "",
    "max_new_tokens": "",
    "max_tiles": "",
    "context": "",
    "stride": "",
    "resamples": "",
    "confidence": "",
    "tolerance": "0",
    "seed": "0 1000000000000",
    "threads": "",
    "baselines": "[]",
    "published": "[]",
    "figures": "[]",
    "sinks": "[]",
    "precision": "",
    "device": "",
    "products": "",
    "resume_on": "",
}
_BAG = "How many pictures show a bag?"
_WHOLE = {"index": "0", "image": picture("red"), "question": _BAG, "answer": "zero"}


def _tsv(*rows: Mapping[str, str]) -> str:
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


# for questions:FILE.tsv
FILES: dict[str, str | bytes] = {
    "empty": "",
    "a header alone": "index\timage\tquestion\tanswer\n",
    "no tabs": "index image question answer\n0 a b c\n",
    "no index": _tsv({key: _WHOLE[key] for key in ("image", "question", "answer")}),
    "no question": _tsv({key: _WHOLE[key] for key in ("index", "image", "answer")}),
    "no answer": _tsv({key: _WHOLE[key] for key in ("index", "image", "question")}),
    "an empty index": _tsv({**_WHOLE, "index": ""}),
    "an index twice": _tsv(_WHOLE, _WHOLE),
    "a column twice": "index\tindex\timage\tquestion\tanswer\n0\t0\tx\ta\tb\n",
    "a cell too many": _tsv(_WHOLE) + "1\tx\ty\tz\tw\n",
    "a cell too few": _tsv(_WHOLE) + "1\tx\n",
    "a quote without an end": _tsv(_WHOLE) + '1\t"x\ty\tz\n',
    "NUL": _tsv({**_WHOLE, "question": "\0"}),
    "no UTF-8": b"\xff\xfe\x00",
    "Latin": _tsv(_WHOLE).encode() + b"1\tx\t\xfc\tz\n",
    "no Base64": _tsv({**_WHOLE, "image": "%" * 100}),
    "no picture": _tsv({**_WHOLE, "image": "QUJD" * 30}),
    "half a picture": _tsv({**_WHOLE, "image": picture("red")[:60]}),
    "the index of no row": _tsv({**_WHOLE, "image": "7"}),
    "the index of itself": _tsv({**_WHOLE, "image": "0"}),
    "a list without an end": _tsv({**_WHOLE, "image": "['x'"}),
    "a list of numbers": _tsv({**_WHOLE, "image": "[1, 2]"}),
    "a call": _tsv({**_WHOLE, "image": "[__import__('os').getcwd()]"}),
    "lists in lists": _tsv({**_WHOLE, "image": "[" * 5000}),
    "no images at all": _tsv({**_WHOLE, "image": ""}),
    "unknown words": _tsv({**_WHOLE, "question": "ünï?"}),
    "an image token": _tsv({**_WHOLE, "question": "<IMG_CONTEXT>"}),
    "marks for more images": _tsv({**_WHOLE, "question": f"<image> <image> <image> {_BAG}"}),
    "a picture that is not there": _tsv({"index": "0", "image_path": "gone.png", "question": _BAG, "answer": "zero"}),
    "a picture that is a folder": _tsv({"index": "0", "image_path": "..", "question": _BAG, "answer": "zero"}),
    "a picture that is a device": _tsv({"index": "0", "image_path": "/dev/zero", "question": _BAG, "answer": "zero"}),
    "a picture that is NUL": _tsv({"index": "0", "image_path": "\0", "question": _BAG, "answer": "zero"}),
    "a picture with a long name": _tsv({"index": "0", "image_path": "a" * 5000, "question": _BAG, "answer": "zero"}),
    "a picture that is text": _tsv({"index": "0", "image_path": "empty.tsv", "question": _BAG, "answer": "zero"}),
}
# with more than one that fits
_OF_BENCHMARKS = {
    "mme": _WHOLE,
    "mmbench": _WHOLE,
    "pope": _WHOLE,
    "seed_image": _WHOLE,
    "mmmu": _WHOLE,
    "scienceqa": _WHOLE,
    "textvqa": {**_WHOLE, "answer": "[1"},
    "likelihood": {**_WHOLE, "A": "zero", "B": "one", "answer": "C"},
}


def cases(folder: Path, run: Path) -> Iterator[Case]:
    """Make each file in a folder, and the commands that read it.

    Args:
        folder: for the files.
        run: of a finished evaluation.
    """
    folder.mkdir(parents=True)
    yield from (Case(("eval", *words)) for words in WORDS)
    for key, fine in KEYS.items():
        for value in _NUMBERS:
            if value not in fine.split():
                yield Case(("eval", "shipped", "picture_questions:4", f"{key}={value}"))
    yield Case(("eval", "shipped", "picture_questions:4", "baselines=[equal_memory]"))
    yield Case(("eval", "shipped", "picture_questions:4", "baselines=[equal_memory]", "against=shipped"))
    yield Case(("eval", "shipped", "picture_questions:4", "context=8", "stride=8"))
    for name, content in FILES.items():
        path = folder / f"{name}.tsv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        yield Case(("eval", "shipped", f"tasks=['questions:{path}']"))
    for name, row in _OF_BENCHMARKS.items():
        path = folder / f"of {name}.tsv"
        path.write_text(_tsv(row))
        yield Case(("eval", "shipped", f"tasks=['{name}:{path}']"))
    yield from _resumed(folder / "runs", run)


def _resumed(folder: Path, run: Path) -> Iterator[Case]:
    def copy(name: str) -> Path:
        target = folder / name
        shutil.copytree(run, target)
        return target

    for number, content in enumerate(("", "word", "NaN", "[]", "{}", "[1]", "null", "[" * 100_000)):
        for name in ("overrides.json", "config.json"):
            damaged = copy(f"{name} {number}")
            (damaged / name).write_text(content)
            yield Case(("eval", f"resume={damaged}"))
    for key in ("models=[hydra]", "tasks=[mme:x.tsv]", "limit=3", "hydra.run.dir=x", "seed=5", "nothing=1"):
        yield Case(("eval", f"resume={run}", key))
    for word in ("limit=${oc.env:HOME}", "--config-dir=x", "hydra.verbose=true", "models=[gone]", "tasks=[gone.tsv]"):
        foreign = copy(word.replace("/", " ").replace("$", ""))
        typed = json.loads((foreign / "overrides.json").read_text())
        (foreign / "overrides.json").write_text(json.dumps([*typed, word]))
        (foreign / "SHA256SUMS").unlink()
        yield Case(("eval", f"resume={foreign}"))
    yield Case(("distill", f"resume={run}"))
    yield Case(("hmm-risk", "sweep", f"resume={run}"))
    yield Case(("export", str(run), "out"))
    yield Case(("generate", str(run), "--prompt", _BAG))
    for word in ("scores=3", "word", "", "ünï"):
        yield Case(("plot", str(run), word))
