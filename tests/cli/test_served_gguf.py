"""An exported GGUF file is served by llama.cpp, by the commands of the documentation, with the answers of `lab`."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from lab.core.models.decoder import Inputs
from lab.experiments.distill.config import register
from lab.experiments.distill.job import execute
from lab.experiments.distill.loaded import LoadedModel, load
from reference.tiny_gguf import ADDED, write_gguf

for name in ("gguf", "tokenizers"):
    pytest.importorskip(name, reason=f"{name} is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
SERVERS = re.findall(r"^((?:python -m llama_cpp\.server|llama-server) .*)$", PAGE, flags=re.MULTILINE)
PROMPT, NUM_NEW, MOST_TOKENS = "which bag is it?", 64, 24
# in float32, as its cache
TOLERANCE, F32 = 1e-4, 0
SECONDS = 120
SHORT = [
    *("threads=1", "figures=[]", "teacher=llama", "data=text", "stage=all", "data.text.piece_length=24"),
    *("evaluation.num_batches=1", "evaluation.batch_size=4", "evaluation.num_validation_batches=1"),
    *(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=4", "batch_size=2")),
    "student.hybrid.number=2",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder with a run of each student that llama.cpp runs, named after it, of a teacher in a GGUF file."""
    place = tmp_path_factory.mktemp("served")
    (place / "texts").mkdir()
    for number in range(30):
        (place / "texts" / f"{number}.txt").write_text(f"which bag is it? user {number} system bag " * 12)
    (place / "alone").mkdir()
    write_gguf(place / "alone" / "tiny.gguf", num_layers=2)
    register()
    for student in ("serving", "two_timescales"):
        words = [f"teacher.path={place / 'alone' / 'tiny.gguf'}", f"data.text.folder={place / 'texts'}"]
        overrides = [*SHORT, *words, f"student={student}"]
        with initialize_config_module("lab.conf", version_base="1.3"):
            config = compose("distill", overrides=overrides)
        execute(config, place / "outputs" / "distill" / "runs" / student, overrides)
    return place / "outputs"


@pytest.fixture(params=["serving", "two_timescales"])
def student(
    request: pytest.FixtureRequest, runs: Path, tmp_path: Path, typed: Callable[..., Any], monkeypatch: Any
) -> tuple[LoadedModel, Path]:
    """A student as `lab` runs it, and its file."""
    monkeypatch.setenv("LAB_OUTPUTS", str(runs))
    path = tmp_path / "student.gguf"
    done = typed("export", request.param, str(path), "--format", "gguf", "--precision", "F32")
    assert done.code == 0, done.err
    return load(request.param, device="cpu"), path


def test_llama_cpp_gives_logits_and_greedy_tokens_of_an_exported_run(student: tuple[LoadedModel, Path]) -> None:
    llama_cpp: Any = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    loaded, path = student
    theirs = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, n_threads_batch=1, type_k=F32, type_v=F32, logits_all=True, verbose=False
    )
    try:
        ids = loaded.read(PROMPT, (), is_raw=True).tokens[0].tolist()
        assert theirs.tokenize(PROMPT.encode(), special=True) == ids
        num_prompt = len(ids)
        theirs.eval(ids)
        for _ in range(NUM_NEW):
            ids.append(int(theirs.scores[len(ids) - 1].argmax()))
            theirs.eval(ids[-1:])
        with torch.no_grad():
            expected = loaded.model(Inputs(tokens=torch.tensor([ids])))[0].numpy()
        assert np.abs(theirs.scores[: len(ids)] - expected).max() <= TOLERANCE * np.abs(expected).max()
        assert ids[num_prompt:] == expected[num_prompt - 1 : -1].argmax(axis=1).tolist()
    finally:
        theirs.close()


def test_the_page_names_both_servers() -> None:
    assert sorted(shlex.split(command)[0] for command in SERVERS) == ["llama-server", "python"]


@pytest.mark.parametrize("command", SERVERS)
def test_a_server_of_the_page_answers_as_lab_does(
    student: tuple[LoadedModel, Path], tmp_path: Path, command: str
) -> None:
    loaded, path = student
    with served(command, path, tmp_path / "log") as ask:
        found = ask("completions", {"prompt": PROMPT})["text"]
        assert is_answer(found, loaded, is_raw=True)
        found = ask("chat/completions", {"messages": [{"role": "user", "content": PROMPT}]})["message"]["content"]
        assert is_answer(found, loaded, is_raw=False)


def is_answer(found: str, loaded: LoadedModel, *, is_raw: bool) -> bool:
    """Whether a server's text is the answer of `lab`.

    Servers leave out special tokens and what is no character, and go on behind the last token to complete one.
    """
    expected = loaded.generate(PROMPT, max_new_tokens=MOST_TOKENS, is_raw=is_raw)
    for left_out in ("<s>", *ADDED, "\ufffd"):
        expected = expected.replace(left_out, "")
    return len(expected) >= MOST_TOKENS and found.startswith(expected)


def started(command: str, path: Path) -> list[str]:
    """The words of a command for a file; the test is skipped where its program is not there."""
    program, *words = shlex.split(command)
    if program == "python":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
        pytest.importorskip("uvicorn", reason="llama-cpp-python is installed without its server")
        program = sys.executable
    elif shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return [program, *(str(path) if word == "student.gguf" else word for word in words)]


@contextmanager
def served(command: str, path: Path, log: Path) -> Iterator[Callable[[str, dict[str, Any]], dict[str, Any]]]:
    """A server, and how to ask for the first choice of its greedy answer: an end of its address, and the rest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [port if word == "8080" else word for word in started(command, path)]

    def ask(end: str, question: dict[str, Any]) -> dict[str, Any]:
        # llama-cpp-python divides the logits of recent tokens by 1.1 if nothing is said
        greedy = {"temperature": 0, "repeat_penalty": 1.0, "max_tokens": MOST_TOKENS}
        body = json.dumps(greedy | question).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/{end}", body, {"Content-Type": "application/json"}
        )
        for _ in range(10 * SECONDS):
            assert server.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    choices: list[dict[str, Any]] = json.load(answer)["choices"]
                    return choices[0]
            except urllib.error.HTTPError as error:
                # llama-server is loading the model
                if error.code != 503:
                    raise
            except urllib.error.URLError:
                pass
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    with log.open("w") as out, subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT) as server:
        try:
            yield ask
        finally:
            server.terminate()
