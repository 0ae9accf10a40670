"""What `lab generate`, `lab export` and `lab bench` must refuse: prompts, requests, templates, options of students."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from faults.bad_inputs import NUMBERS, Case

from lab.experiments.distill.teacher import SHIPPED_FOLDER

BAG = "How many pictures show a bag?"

REQUESTS: dict[str, str | bytes] = {
    "empty": "",
    "blank lines": "\n\n \n",
    "no JSON": "word\n",
    "a number": "1e400\n",
    "a list": "[]\n",
    "no prompt": "{}\n",
    "a prompt that is a number": '{"prompt": 3}\n',
    "a prompt that is null": '{"prompt": null}\n',
    "an empty prompt": '{"prompt": " "}\n',
    "half of a character": '{"prompt": "\\ud800"}\n',
    "half of a character beside the prompt": '{"prompt": "How many?", "id": "\\ud800"}\n',
    "unknown words": '{"prompt": "ünï"}\n',
    "an image token": '{"prompt": "<IMG_CONTEXT>"}\n',
    "a mark without an image": '{"prompt": "<image> Same?"}\n',
    "too long": json.dumps({"prompt": "Same? " * 5000}) + "\n",
    "images that are a text": json.dumps({"prompt": BAG, "images": "a.png"}),
    "images that are numbers": json.dumps({"prompt": BAG, "images": [1]}),
    "an image that is missing": json.dumps({"prompt": BAG, "images": ["gone.png"]}),
    "an image that is a folder": json.dumps({"prompt": BAG, "images": ["."]}),
    "an image that is a device": json.dumps({"prompt": BAG, "images": ["/dev/zero"]}),
    "an image that is NUL": json.dumps({"prompt": BAG, "images": ["\0"]}),
    "an image with a long name": json.dumps({"prompt": BAG, "images": ["a" * 5000]}),
    "an image that is text": json.dumps({"prompt": BAG, "images": ["empty.jsonl"]}),
    "nested": "[" * 100_000,
    "digits": '{"prompt": ' + "1" * 5000 + "}",
    "no UTF-8": b"\xff\xfe\x00",
    "NUL": b"\0" * 1000,
}
# where answers are to go
ANSWERS: dict[str, str | bytes] = {
    "no answers": "word\n",
    "answers to others": '{"asked": "x"}\n',
    "a list": "[]\n",
    "a number": "1\n",
    "NUL": b"\0\n",
    "nested": "[" * 100_000 + "\n",
    "no UTF-8": b"\xff\xfe\n",
}
PROMPT_FILES: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n\n",
    "no UTF-8": b"\xff\xfe\x00",
    "NUL": b"\0" * 100,
    "unknown words": "ünï".encode(),
    "an image token": b"<IMG_CONTEXT>",
    "too long": b"Same? " * 5000,
    "longer still": b"Same? " * 1_000_000,
}
TEMPLATES: dict[str, str] = {
    "no end": "{% for message in messages %}",
    "no such tag": "{% nothing %}",
    "no such filter": "{{ messages | nothing }}",
    "no such variable": "{{ nothing.more }}",
    "a refusal": "{{ raise_exception('never') }}",
    "a refusal of many lines": "{{ raise_exception('one\ntwo') }}",
    "a loop in a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
    "an empty loop in a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10 ** 12) %}x{% endfor %}",
    "a long range as a list": "{{ range(99999) | map('string') | list * 99999 }}",
    "a long text": "{{ 'x' * 10 ** 11 }}",
    "a text that doubles": "{% set n = namespace(x='x' * 999) %}{% for i in range(50) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}{{ n.x }}",
    "a text that doubles by +": "{% set n = namespace(x='x') %}{% for i in range(50) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}{{ n.x }}",
    "a list that doubles": "{% set n = namespace(x=[1]) %}{% for i in range(50) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}{{ n.x }}",
    "a text that is replaced": "{% set n = namespace(x='aa') %}{% for i in range(50) %}"
    "{% set n.x = n.x.replace('a', 'aa') %}{% endfor %}{{ n.x }}",
    "a filter that replaces": "{% set n = namespace(x='aa') %}{% for i in range(50) %}"
    "{% set n.x = n.x | replace('a', 'aa') %}{% endfor %}{{ n.x }}",
    "a text that is joined": "{% set n = namespace(x='aa') %}{% for i in range(50) %}"
    "{% set n.x = n.x | join(n.x) %}{% endfor %}{{ n.x }}",
    "a large power": "{{ 10 ** (10 ** 10) }}",
    "a large shift": "{{ (2 ** 62) ** (2 ** 62) }}",
    "a wide format": "{{ '%99999999999d' % 1 }}",
    "a wide format of strings": "{{ '{:>99999999999}'.format(1) }}",
    "a wide filter": "{{ 'x' | center(99999999999) }}",
    "a wide method": "{{ 'x'.ljust(99999999999) }}",
    "a wide indent": "{{ messages | tojson(indent=99999999999) }}",
    "many words": "{{ lipsum(n=10 ** 9) }}",
    "batches": "{{ messages | batch(10 ** 10, 'x') | list }}",
    "slices": "{{ messages | slice(10 ** 10, 'x') | list }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(90) }}",
    "a block that fills": "{% set x %}{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}{{ x }}",
    "attributes": "{{ ''.__class__.__mro__ }}",
    "attributes by filter": "{{ '' | attr('__class__') }}",
    "attributes by format": "{{ '{0.__class__}'.format(messages) }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "the environment": "{{ self._TemplateReference__context.environment }}",
    "globals of strftime": "{{ strftime_now.__self__.__class__ }}",
    "a cycler": "{{ cycler.__init__.__globals__.os.popen('touch executed').read() }}",
    "subclasses": "{{ ().__class__.__base__.__subclasses__() }}",
    "an include": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "an extends": "{% extends '/etc/passwd' %}",
    "a change of messages": "{{ messages.clear() }}{{ messages[0] }}",
    "deep brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "many nested loops": "{% for a in messages %}" * 40 + "{% endfor %}" * 40,
    "long": "{# " + "x" * 50_000_000 + " #}",
    "division by zero": "{{ 1 / 0 }}",
    "a number as a text": "{{ 1 + 'a' }}",
    "half of a character": "{{ '\\ud800' }}",
}
# in the place of tokenizer_config.json
SETTINGS: dict[str, str] = {
    "empty": "",
    "no JSON": "word",
    "a list": "[]",
    "a template that is a number": '{"chat_template": 3}',
    "a template that is an object": '{"chat_template": {"default": "x"}}',
    "nested": "[" * 100_000,
}


def cases(folder: Path, text_model: Path, run: Path) -> Iterator[Case]:
    """Make each file in a folder, and the commands that read it.

    Args:
        folder: for the files.
        text_model: a checkpoint without a chat template, whose tokenizer knows every byte.
        run: of `lab distill`.
    """
    for name, content in _written(folder / "requests", REQUESTS, ".jsonl"):
        batch = () if len(name) % 2 else ("--batch", "2")
        yield _asked("--requests", str(content), "out.jsonl", *batch)
    (folder / "whole.jsonl").write_text(json.dumps({"prompt": BAG}) + "\n")
    whole = str(folder / "whole.jsonl")
    yield from (_asked("--requests", whole, str(path)) for _, path in _written(folder / "answers", ANSWERS, ".jsonl"))
    yield from (_asked("--requests", whole, place) for place in ("/", "", "gone/x/y", "/dev/null/x", "/proc/x", "."))
    yield from (_asked("--requests", place, "o") for place in ("gone", "", "/", "/dev/null", "/dev/zero", "a" * 5000))
    yield from (_asked("--requests", whole, "o.jsonl", "--batch", value) for value in (*NUMBERS, "17") if value)
    yield from (_asked("--prompt-file", str(path)) for _, path in _written(folder / "prompts", PROMPT_FILES, ".txt"))
    yield from (_asked("--prompt-file", place) for place in ("gone", "", "/", "/dev/zero", "a" * 5000))
    # standard input is empty
    yield _asked("--prompt-file", "-")
    yield from (_asked(*words) for words in _TOGETHER)
    yield Case(("generate", str(text_model), "--chat"))
    for name, model in _models(folder / "templates", text_model):
        more = ("--chat",) if name == "chat" else ("--prompt", "Why?")
        yield Case(("generate", str(model), *more, "--max-new-tokens", "1", "--threads", "1"))
    yield from map(Case, _exports(run))
    yield from map(Case, _benchmarks())


_TOGETHER = (
    (),
    ("--prompt", BAG, "--chat"),
    ("--prompt", BAG, "--prompt-file", "x"),
    ("--prompt", BAG, "--requests", "a", "b"),
    ("--prompt", BAG, "--batch", "2"),
    ("--chat", "--raw"),
    ("--chat", "--json", "a.json"),
    ("--chat", "--image", "gone.png", "--batch", "2"),
    ("--requests", "a"),
    ("--requests", "a", "b", "--image", "c.png"),
    ("--requests", "a", "b", "--json", "c.json"),
)


def _asked(*words: str) -> Case:
    return Case(("generate", str(SHIPPED_FOLDER), *words, "--max-new-tokens", "1", "--threads", "1"))


def _written(folder: Path, contents: Mapping[str, str | bytes], ending: str) -> Iterator[tuple[str, Path]]:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        path = folder / f"{name}{ending}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        yield name, path


def _models(folder: Path, text_model: Path) -> Iterator[tuple[str, Path]]:
    """The text model with each template, by turns in a file and among the settings."""
    folder.mkdir()
    for number, (name, template) in enumerate(TEMPLATES.items()):
        model = _linked(folder / f"template {number}", text_model)
        if number % 2:
            (model / "chat_template.jinja").write_text(template)
        else:
            named = [{"name": "default", "template": template}] if number % 4 else template
            (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": named, "bos_token": "<s>"}))
        yield name, model
    for number, content in enumerate(SETTINGS.values()):
        model = _linked(folder / f"settings {number}", text_model)
        (model / "tokenizer_config.json").write_text(content)
        yield "settings", model
    model = _linked(folder / "no text", text_model)
    (model / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    yield "no text", model


def _linked(target: Path, source: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        if path.name not in ("tokenizer_config.json", "SHA256SUMS"):
            (target / path.name).symlink_to(path)
    return target


def _exports(run: Path) -> Iterator[tuple[str, ...]]:
    stock = ("--format", "transformers")
    for word in ("word", "", "ünï", "MMMAMBA", "Transformers", "GGUF", "[]"):
        yield ("export", str(run), "out", "--format", word)
    for place in ("out", "", ".gguf", "out.ggu", "/proc/x.gguf", "/dev/null/x.gguf", "a" * 300 + ".gguf"):
        yield ("export", str(run), place, "--format", "gguf")
    for word in ("word", "", "bfloat16", "f16", "Q4_0"):
        yield ("export", str(run), "out.gguf", "--format", "gguf", "--precision", word)
    for word in ("word", "", "ünï", "float16", "int8", "BFLOAT16", "64", "nan"):
        yield ("export", str(run), "out", "--precision", word)
        yield ("export", str(run), "out", *stock, "--precision", word)
    for option in ("--stage", "--replicate"):
        for word in ("-1", "9", "nan", "word", "1e300"):
            yield ("export", str(run), "out", *stock, option, word)
    yield ("export", str(run), "out", *stock, "--variant", "nothing")
    for place in ("", "/", "/proc/x", "/dev/null/x", ".", "a" * 300):
        yield ("export", str(run), place, *stock)
    yield from (("export", word, "out", *stock) for word in ("nothing", "", "ünï", "/", "/dev/null", "shipped"))


def _benchmarks() -> Iterator[tuple[str, ...]]:
    for name in ("long-context", "answer-speed"):
        quick = ("bench", name, "--quick", "--repeats", "1")
        for word in ("nothing", "", "ünï", "/", "/dev/null", "../x", "a" * 5000, "shipped.gguf"):
            yield (*quick, "--teacher", word)
        yield from ((*quick, "--precision", word) for word in ("word", "", "float64", "float16", "nan"))
        for word in ("0", "-1", "1", "nan", "1e300", "word", "", "1000000000000", "99999999999999999999999", "²"):
            yield (*quick, "--layers", word)
        yield (*quick, "--teacher", str(SHIPPED_FOLDER), "--layers", "2")
    for word in ("0", "-1", "nan", "word", "1M", "1K,", ",", "1.5", "1000000000000", "9999999K", "²", "1" * 5000):
        yield ("bench", "long-context", "--quick", "--lengths", word)
    yield ("bench", "answer-speed", "--quick", "--lengths", "1K")
    yield from (("bench", "ssd", "--quick", option, "1") for option in ("--teacher", "--layers", "--lengths"))
    for place in ("/", "/proc/x/y", "/dev/null/x"):
        yield ("bench", "long-context", "--quick", "--json", place)
