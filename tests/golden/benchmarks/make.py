"""Recorded answers to eight benchmarks, and what VLMEvalKit's own functions score them.

Made with ms-vlmeval 0.0.20 and pandas 3.1.1 under Python 3.11:

    python -m venv kit && kit/bin/pip install openpyxl pandas pillow portalocker tqdm validators xlsxwriter
    kit/bin/pip install --no-deps ms-vlmeval==0.0.20
    kit/bin/python tests/golden/benchmarks/make.py tests/golden/benchmarks

The kit imports dozens of packages that scoring does not use; those that are not installed are replaced by empty ones.
Nothing of it is changed: each file is scored by `evaluate` of the kit's data set, which writes and reads its own files.
"""

import csv
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

Row = dict[str, str]
SIZE = 240
WORDS = ["cat", "dog", "red car", "blue sky", "banana", "two", "7", "stop sign", "the sea", "don't walk"]
SKILLS = ["attribute", "counting", "logic"]


class EmptyPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what nothing else finds."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] == "vlmeval":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        class Empty(types.ModuleType):
            def __getattr__(self, name: str) -> object:
                if name.startswith("__"):
                    raise AttributeError(name)
                return mock.MagicMock(name=name)

        return Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def yes_no_answers(draw: random.Random, right: str) -> str:
    wrong = "No" if right == "Yes" else "Yes"
    word = right if draw.random() < 0.6 else wrong
    forms = [
        word, word.lower(), f"{word}.", f"{word}, there is.", f"({word})", f"**{word}**",
        f"The answer is {word.lower()}.",
        f"{word}!\nBecause it is so.", f"\"{word}\"", f"{word}-ish", f"{word}/maybe", f"well,{word}", f"{word} and no",
        f"{word}{word}", "", "None", "unknown", "yes or no", "I cannot tell.", "nope", "yesterday", f"{word} 1,000",
    ]  # fmt: skip
    return draw.choice(forms[:8] * 3 + forms)


def choice_answers(draw: random.Random, options: dict[str, str], right: str) -> str:
    letter = right if draw.random() < 0.6 and right in options else draw.choice(list(options) or ["A"])
    other = draw.choice(list(options) or ["A"])
    text = options.get(letter, "cat")
    forms = [
        letter, f"({letter})", f"{letter}.", f"{letter}:", f"The answer is {letter}", f"the answer is {letter}.",
        f"Answer: {letter}", f"{letter}. {text}", text, f"It is {text.upper()}.", f"**{letter}**", f"{{{letter}}}",
        letter.lower(), f"{letter} or {other}", f"{letter}, {other}", f"{letter}{other}", "", "None", "N/A", "Z", "E",
        "A cat sits on the mat in the sun", f"A reason for {letter} is that all others are wrong here",
        f"{letter} is what I would say after a long look at it", "Cannot determine the answer", "I think (Z)",
        "Sorry, I can't help with images of people yet.", "Failed to obtain answer via API", f"{text} " * 30,
        f"{text} and {options.get(other, 'dog')}", f"\n{letter}\n", f"#{letter}!", f"option {letter}", "nan",
    ]  # fmt: skip
    return draw.choice(forms[:9] * 3 + forms)


def short_answers(draw: random.Random, right: str) -> str:
    text = right if draw.random() < 0.6 else draw.choice(WORDS)
    forms = [
        text, f" {text} ", text.upper(), f"{text}.", f"a {text}", f"The {text}", f"{text}!", f"it's {text}",
        f"{text}, {text}",
        "", "None", "none", "no. 5", "5.5", "1,000", "1,000 m", "two cats", "seven", "dont walk", "don't walk",
        "Don't Walk!",
        f"{text}/{text}", f"({text})", "couldnt've", "yall'd've", "somebody'd", "twas", f"an {text}\tand\nmore", "…",
        "nan", "a.b", ". . ." * 14, "10", "ten", f"{text}-{text}", "null", "NA", "2.0", "007", "[5]",
    ]  # fmt: skip
    return draw.choice(forms[:6] * 3 + forms)


def mme(draw: random.Random) -> list[Row]:
    names = [
        "OCR",
        "artwork",
        "celebrity",
        "color",
        "count",
        "existence",
        "position",
        "code_reasoning",
        "text_translation",
    ]
    rows = []
    for number in range(SIZE // 2):
        for place, right in enumerate(["Yes", "No"]):
            labels = {"category": names[number % len(names)], "image_path": f"{number:03}.jpg"}
            row = {"index": str(2 * number + place), "question": f"Is it {number}?", "answer": right, **labels}
            rows.append({**row, "prediction": yes_no_answers(draw, right)})
    return rows


def pope(draw: random.Random) -> list[Row]:
    subsets = ["adversarial", "popular", "random", "adversarial,popular,random", "popular,random"]
    rows = []
    for number in range(SIZE):
        right = draw.choice(["Yes", "No"])
        row = {"index": str(number), "question": "Is there a cat?", "answer": right, "category": draw.choice(subsets)}
        rows.append({**row, "prediction": yes_no_answers(draw, right)})
    return rows


def choices(draw: random.Random, *, hint: bool = False, split: Sequence[str] = (), opened: bool = False) -> list[Row]:
    rows = []
    for number in range(SIZE):
        texts = draw.sample([*WORDS, "None", "cat food"], draw.choice([2, 3, 4]))
        options = {letter: texts[place] if place < len(texts) else "" for place, letter in enumerate("ABCD")}
        shown = {letter: text for letter, text in options.items() if text not in ("", "None")}
        right = draw.choice(list(shown))
        if opened and draw.random() < 0.2:
            options, right = dict.fromkeys("ABCD", ""), draw.choice([*WORDS, "B"])
            shown = {"A": right, "B": "Other Answers"}
        row = {"index": str(number), "question": f"What is it, {number}?", **options, "answer": right}
        row |= {"hint": draw.choice(["", "Look closely."])} if hint else {}
        row |= {"split": draw.choice(split)} if split else {}
        labels = {"category": draw.choice(SKILLS), "l2-category": draw.choice(["perception", "reasoning"])}
        rows.append({**row, **labels, "prediction": choice_answers(draw, shown, right)})
    return rows


def mmbench(draw: random.Random) -> list[Row]:
    rows = []
    for number in range(SIZE // 3):
        texts = draw.sample(WORDS, 3)
        skill, group = draw.choice(SKILLS), draw.choice(["perception", "reasoning"])
        knows = draw.random() < 0.6
        for turn in range(draw.choice([2, 3, 3])):
            options = {letter: texts[(place + turn) % 3] for place, letter in enumerate("ABC")}
            right = next(letter for letter, text in options.items() if text == texts[0])
            row = {
                "index": str(turn * 1_000_000 + number),
                "question": f"What is {number}?",
                **options,
                "answer": right,
            }
            said = draw.choice([right, f"({right})", texts[0]]) if knows else choice_answers(draw, options, right)
            rows.append({**row, "category": skill, "l2-category": group, "split": "dev", "prediction": said})
    while len(rows) < SIZE:
        rows.append({**rows[0], "index": str(4_000_000 + len(rows)), "prediction": "A"})
    return rows


def textvqa(draw: random.Random) -> list[Row]:
    rows = []
    for number in range(SIZE):
        right = draw.choice(WORDS)
        said = [
            right if draw.random() < 0.6 else draw.choice([*WORDS, "none", "10", "1,000", "A cat."]) for _ in range(10)
        ]
        row = {"index": str(number), "question": "What is written?", "answer": repr(said)}
        rows.append({**row, "prediction": short_answers(draw, right)})
    return rows


def gqa(draw: random.Random) -> list[Row]:
    rows = []
    for number in range(SIZE):
        right = draw.choice(WORDS)
        row = {"index": str(number), "question": "What is it?", "answer": right, "category": draw.choice(SKILLS)}
        rows.append({**row, "prediction": short_answers(draw, right)})
    return rows


MAKERS: dict[str, Callable[[random.Random], list[Row]]] = {
    "MME": mme,
    "POPE": pope,
    "MMBench_DEV_EN": mmbench,
    "SEEDBench_IMG": choices,
    "MMMU_DEV_VAL": lambda draw: choices(draw, split=("dev", "validation"), opened=True),
    "ScienceQA_TEST": lambda draw: choices(draw, hint=True, split=("test",)),
    "TextVQA_VAL": textvqa,
    "GQA_TestDev_Balanced": gqa,
}


def scores_of(name: str, path: Path) -> dict[str, dict[str, float]]:
    """What the kit's `evaluate` returns, a mapping for each row by its split."""
    # after the empty packages are in place
    from vlmeval.dataset.image_mcq import ImageMCQDataset, MMMUDataset  # noqa: PLC0415
    from vlmeval.dataset.image_vqa import ImageVQADataset  # noqa: PLC0415
    from vlmeval.dataset.image_yorn import ImageYORNDataset  # noqa: PLC0415
    from vlmeval.smp import load  # noqa: PLC0415

    kinds = {
        "MME": ImageYORNDataset,
        "POPE": ImageYORNDataset,
        "TextVQA_VAL": ImageVQADataset,
        "MMMU_DEV_VAL": MMMUDataset,
    }
    kind = kinds.get(name, ImageVQADataset if name.startswith("GQA") else ImageMCQDataset)
    dataset = kind.__new__(kind)
    dataset.dataset_name = name
    dataset.data = load(str(path))
    table = dataset.evaluate(str(path), model="exact_matching")
    found = {}
    for number, row in enumerate(table.to_dict("records")):
        split = str(row.pop("split", number))
        found[split] = {key: float(value) for key, value in row.items() if value == value}
    return found


def main(folder: Path) -> None:
    # these are there, and look for others that need not be
    for name in ("openpyxl", "pandas", "tqdm", "validators", "PIL.Image", "xlsxwriter"):
        importlib.import_module(name)
    # without the module of each of its two hundred data sets
    root = importlib.util.find_spec("vlmeval").submodule_search_locations[0]
    for name in ("vlmeval", "vlmeval.dataset"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(Path(root, *name.split(".")[1:]))]
    sys.meta_path.append(EmptyPackages())
    for name in ("image_mcq", "image_vqa", "image_yorn", "utils.multiple_choice", "utils.vqa_eval", "utils.yorn"):
        importlib.import_module(f"vlmeval.dataset.{name}")
    # pandas looks for packages that it can do without
    sys.meta_path.pop()
    os.environ["PRED_FORMAT"] = "tsv"
    expected = {}
    for name, maker in MAKERS.items():
        rows = maker(random.Random(f"answers to {name}"))
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, f"model_{name}.tsv")
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            (folder / f"{name}.tsv").write_bytes(path.read_bytes())
            expected[name] = scores_of(name, path)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
