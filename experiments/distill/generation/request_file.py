"""Answers to a file of prompts: JSON lines in, JSON lines out, each written as it is given.

A line of the file is an object with `prompt`, possibly `images`, paths relative to the file, and anything else but
`image`, which would be meant to be read. A line of the answers holds its number, the model, by a digest of its weights,
the request, the answer, and a digest of all that, by which damage is found. A command that is typed again goes on
behind the last answer, also where the same model has another name; answers of another model, or about pictures that
have changed since, are refused.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lab.core.errors import InputError, LabError, RunError
from lab.core.models.config import ModelConfig
from lab.core.models.decoder import Inputs
from lab.core.runs.atomic_files import refuse_no_file, refuse_special, write_atomically
from lab.core.runs.console import progress
from lab.core.runs.random_streams import Seeds
from lab.experiments.distill.generation.answer import Report, Respondent
from lab.experiments.distill.generation.batch import Asked, answer_all
from lab.experiments.distill.opened_model import refuse_pictures
from lab.experiments.distill.teacher import digest

_DIGITS = 16
_picture_digest = partial(hashlib.blake2b, digest_size=_DIGITS // 2)
# of a line of answers: its digest
_END = len(', "sum": ""}') + _DIGITS


@dataclass(frozen=True, slots=True)
class FiledRequest:
    """A line of a file of prompts.

    Attributes:
        number: of the line, from 1.
        content: as it stands there.
        prompt: the question.
        images: in the order of its placeholders.
    """

    number: int
    content: dict[str, Any]
    prompt: str
    images: tuple[Path, ...]


def read_requests(path: Path) -> list[FiledRequest]:
    """The requests in a file; blank lines are left out.

    Raises:
        InputError: naming the first line that is not a request, or if the file has no requests.
    """
    refuse_special(path, InputError)
    try:
        # not splitlines: a text in JSON may hold what other systems call the end of a line
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a file of JSON lines") from None
    found = [_request(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise InputError(
            f'{path} holds no requests; write lines such as {{"prompt": "How many?", "images": ["a.png"]}}'
        )
    return found


def answer_file(
    respondent: Respondent,
    path: Path,
    target: Path,
    *,
    num_rows: int,
    options: dict[str, Any],
    seeds: Seeds,
    day: date,
) -> str:
    """Answer the requests of a file that have no answer yet.

    Args:
        respondent: the model.
        path: of the requests.
        target: of the answers; those that are there are kept.
        num_rows: answers that are made at once.
        options: what the answers depend on besides the requests, told apart in the file of answers.
        seeds: of the run; each request has a stream of random numbers.
        day: for templates that write it.

    Returns:
        What was done, in one line.

    Raises:
        InputError: if a request cannot be read, or answered: those before it are kept.
        RunError: if the answers are of another model, or to other requests or options, or cannot be written.
    """
    requests = read_requests(path)
    model = digest(respondent.opened.model)
    digest_of = partial(_digest, path, options)
    num_before = _answered(target, map(digest_of, requests), model)
    begin, num_tokens, next_place = time.perf_counter(), 0, num_before
    prompts = _Prompts(respondent, path, requests, num_before, digest_of, seeds, day)
    # answers that ended before one above them in the file
    early: dict[int, Report] = {}
    prompts.refuse_first()
    with open(target, "ab") as file, progress("answers", len(requests), completed=num_before) as advance:
        for place, report in answer_all(respondent, prompts, num_rows=num_rows):
            early[place] = report
            num_tokens += report.num_new_tokens
            while next_place in early:
                content = _kept(early.pop(next_place))
                request = requests[next_place]
                row = {
                    "line": request.number,
                    "model": model,
                    "asked": prompts.asked.pop(next_place),
                    "request": request.content,
                    "answer": content,
                }
                _append(file.fileno(), target, _checked(json.dumps(row, ensure_ascii=False)[:-1].encode()) + b"\n")
                next_place += 1
                advance(next_place)
    if prompts.failure is not None:
        raise prompts.failure
    seconds = time.perf_counter() - begin
    speed = f", {num_tokens / seconds:.1f} tokens/s with prompts" if num_tokens else ""
    known = f", {num_before} of them there before" if num_before else ""
    return f"{target}: {len(requests)} answers{known}; {num_tokens} new tokens in {seconds:.3g} s{speed}"


def refuse_no_answers(target: Path) -> None:
    """Refuse a place where no file of answers can be made.

    Raises:
        RunError: saying why.
    """
    refuse_no_file(target)
    if not target.absolute().parent.is_dir():
        raise RunError(f"{target} cannot be written: there is no folder {target.parent}; make it")


def refuse_other_answers(target: Path, requests: list[FiledRequest]) -> None:
    """Refuse a file of answers to other requests, before a model is read to go on with it.

    Raises:
        RunError: if it is one, or damaged.
    """
    if target.exists():
        found = [row["request"] for row in _rows(target, _whole_lines(target.read_bytes()))]
        if found != [request.content for request in requests[: len(found)]]:
            raise RunError(f"{target} holds answers to other requests; give a new file")


def refuse_pictures_of(requests: list[FiledRequest], path: Path, architecture: ModelConfig) -> None:
    """Refuse requests with pictures for a model that reads text only.

    Raises:
        InputError: naming the first line.
    """
    for request in requests:
        try:
            refuse_pictures(request.images, architecture)
        except InputError as error:
            raise InputError(f"{path}, line {request.number}: {error}") from None


class _Prompts:
    """The prompts of a file from a place on; ends before one that cannot be read, and keeps why.

    Attributes:
        failure: why it ended.
        asked: digests of requests that were handed out, by their places.
    """

    def __init__(
        self,
        respondent: Respondent,
        path: Path,
        requests: list[FiledRequest],
        first: int,
        digest_of: Callable[[FiledRequest], str],
        seeds: Seeds,
        day: date,
    ) -> None:
        self.failure: LabError | None = None
        self.asked: dict[int, str] = {}
        self._digest_of = digest_of
        self._respondent = respondent
        self._path = path
        self._requests = requests
        self._first = first
        self._seeds = seeds
        self._day = day

    def __iter__(self) -> Iterator[Asked]:
        for place in range(self._first, len(self._requests)):
            try:
                prompt = self._read(self._requests[place])
                # its pictures as they are now: an hour later they may be others
                self.asked[place] = self._digest_of(self._requests[place])
            except LabError as error:
                self.failure = error
                return
            yield Asked(place, prompt, self._seeds.torch("generate", place))

    def refuse_first(self) -> None:
        """Refuse a first prompt that cannot be read, before a file is made for answers.

        Raises:
            LabError: naming the line.
        """
        if self._first < len(self._requests):
            self._read(self._requests[self._first])

    def _read(self, request: FiledRequest) -> Inputs:
        try:
            opened = self._respondent.opened
            prompt = opened.read(request.prompt, request.images, is_raw=self._respondent.is_raw, day=self._day)
            # does it fit?
            self._respondent.limit(prompt)
        except LabError as error:
            raise InputError(f"{self._path}, line {request.number}: {error}") from None
        return prompt


def _kept(report: Report) -> dict[str, Any]:
    return {key: value for key, value in asdict(report).items() if key not in ("memory", "num_read_tokens")}


def _request(path: Path, number: int, line: str) -> FiledRequest:
    where = f"{path}, line {number}"
    try:
        content = json.loads(line)
    # lists in lists without end, too
    except (ValueError, RecursionError):
        raise InputError(f"{where}: is not valid JSON; repair the line") from None
    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        raise InputError(f'{where}: is not an object with a text "prompt"; repair the line')
    try:
        # the whole line, which is copied to its answer
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: has half of a character (\\ud800 to \\udfff); repair the line") from None
    if "image" in content and "images" not in content:
        raise InputError(f'{where}: "image" is not read; write "images" with a list of paths, or remove it')
    images = content.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise InputError(f'{where}: "images" is not a list of paths; repair the line')
    if not content["prompt"].strip() and not images:
        raise InputError(f"{where}: its prompt is empty; give some text, or remove the line")
    paths = tuple(path.parent / image for image in images)
    missing = next((image for image in paths if not image.is_file()), None)
    if missing is not None:
        raise InputError(f"{where}: the image {missing} does not exist; give a path relative to {path.parent}")
    return FiledRequest(number, content, content["prompt"], paths)


def _digest(path: Path, options: dict[str, Any], request: FiledRequest) -> str:
    """Of a request, its options and what its pictures hold.

    Raises:
        InputError: if a picture cannot be read.
    """
    pictures = []
    for image in request.images:
        try:
            with image.open("rb") as file:
                pictures.append(hashlib.file_digest(file, _picture_digest).hexdigest())
        except OSError as error:
            why = f"{path}, line {request.number}: {image} cannot be read ({error.strerror}); put it back"
            raise InputError(why) from None
    asked = [request.content, options, *([pictures] if pictures else [])]
    content = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _answered(target: Path, asked: Iterable[str], model: str) -> int:
    """How many of the first requests have an answer; a line that a kill has cut is removed.

    Args:
        target: the file of answers.
        asked: digests of the requests; only as many as have an answer are looked at.
        model: digest of its weights.

    Raises:
        InputError: if a picture of a request that has an answer cannot be read.
        RunError: if the file holds anything else.
    """
    if not target.exists():
        return 0
    content = target.read_bytes()
    whole = _whole_lines(content)
    found = list(_rows(target, whole))
    other = next((row["model"] for row in found if row["model"] != model), None)
    if other is not None:
        raise RunError(
            f"{target} holds answers of another model (digest of its weights {other[:_DIGITS]}, of this one's "
            f"{model[:_DIGITS]}); give a new file"
        )
    if [row["asked"] for row in found] != list(islice(asked, len(found))):
        raise RunError(
            f"{target} holds answers to other requests, about other pictures, or with other options; give a new file"
        )
    if len(whole) < len(content):
        write_atomically(target, whole)
    return len(found)


def _whole_lines(content: bytes) -> bytes:
    """Without a line that a kill has cut."""
    return content[: content.rfind(b"\n") + 1]


def _rows(target: Path, content: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(line)
            row = {"model": str(row["model"]), "asked": str(row["asked"]), "request": row["request"]}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise RunError(f"{target}, line {number}: is not an answer of lab generate; give a new file") from None
        if line != _checked(line[:-_END]):
            raise RunError(
                f"{target}, line {number}: was damaged or changed since it was written; put it back, or delete the "
                "lines from there on to answer them again"
            )
        yield row


def _checked(body: bytes) -> bytes:
    """A line, of what stands in front of its last member: a digest of that."""
    return body + b', "sum": "%s"}' % hashlib.blake2b(body, digest_size=_DIGITS // 2).hexdigest().encode()


def _append(descriptor: int, target: Path, content: bytes) -> None:
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    except OSError as error:
        raise RunError(f"{target} cannot be written: {error.strerror}; type the command again once it can") from error
