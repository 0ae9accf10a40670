"""Models for other tools: `TextModel` for lm-evaluation-harness, `ImageModel` for lmms-eval.

Neither tool is loaded before one of these classes is asked for. lm-evaluation-harness takes an object, or runs as

    python -m lab.experiments.eval.harness run --model lab --model_args model=RUN --tasks TASK --include_path FOLDER

which is its own command with `lab` among its models. lmms-eval finds `lab` by itself, through the entry point that
pyproject.toml has in the group `lmms_eval.models`.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image

from lab.core.benchmarks.placing import place_images
from lab.core.data.chat_template import turn_header, written_turn
from lab.core.data.jinja_chat import Message
from lab.core.errors import ConfigError, InputError, LabError
from lab.core.models.decoder import Inputs
from lab.core.streams import say
from lab.experiments.eval.served import asked_of, serve

NAME = "lab"


def manifest() -> Any:
    """What lmms-eval's registry holds of this model."""
    from lmms_eval.models.registry_v2 import ModelManifest  # noqa: PLC0415 - only lmms-eval asks for it

    return ModelManifest(model_id=NAME, simple_class_path=f"{__name__}.ImageModel")


def __getattr__(name: str) -> type:
    """`TextModel` and `ImageModel`, once they are asked for: their base classes belong to other packages."""
    if name == "TextModel":
        return _text_model()
    if name == "ImageModel":
        return _image_model()
    raise AttributeError(f"module {__name__} has no {name}")


@cache
def _text_model() -> type:
    from lm_eval import utils  # noqa: PLC0415 - see `__getattr__`
    from lm_eval.api.model import LM  # noqa: PLC0415

    class TextModel(LM):  # type: ignore[misc]  # of a package without types
        """Texts as they stand, behind the tokenizer's opening token; with `apply_chat_template` in the chat format."""

        def __init__(
            self,
            model: str,
            device: str | None = None,
            precision: str | None = None,
            batch_size: int | str | None = None,
            max_batch_size: int | str | None = None,
        ) -> None:
            super().__init__()
            self._served = serve(
                model,
                device=device,
                precision=precision,
                batch_size=batch_size,
                max_batch_size=max_batch_size,
                max_tiles=None,
            )

        @property
        def tokenizer_name(self) -> str:
            return self._served.respondent.label

        def chat_template(self, chat_template: bool | str = False) -> str:
            if not chat_template:
                return ""
            chat = self._served.chat
            return written_turn("{role}", "{content}") if chat is None else chat.source

        def apply_chat_template(
            self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
        ) -> str:
            chat = self._served.chat
            if chat is not None:
                messages = [
                    Message(role=turn["role"], content=self._served.content(turn["content"])) for turn in chat_history
                ]
                if add_generation_prompt:
                    return chat.render(messages, is_open=True)
                # the tool goes on with the text of the last turn
                return chat.render(messages[:-1], is_open=True) + chat_history[-1]["content"]
            turns = [(turn["role"], turn["content"]) for turn in chat_history]
            if not turns or turns[0][0] != "system":
                turns.insert(0, ("system", self._served.respondent.opened.prompt.system))
            last = turn_header("assistant")
            if not add_generation_prompt:
                # the tool goes on with the text of the last turn
                role, text = turns.pop()
                last = turn_header(role) + text
            return "".join(written_turn(role, text) for role, text in turns) + last

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            served = self._served
            return self._each(
                "loglikelihood", requests, lambda args: tuple(served.likelihood(*served.split(*args))), disable_tqdm
            )

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            return self._each("loglikelihood_rolling", requests, lambda args: self._rolling(*args), disable_tqdm)

        def _rolling(self, text: str) -> float:
            """Every token of a text once, in windows as long as the model reads, as the tool cuts them."""
            served = self._served
            windows = utils.get_rolling_token_windows(served.encode(text), served.first, served.longest, 1)
            pairs = map(utils.make_disjoint_window, windows)
            return sum((served.likelihood(before, ids).value for before, ids in pairs), 0.0)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return self._each("generate_until", requests, lambda args: self._generated(*args), disable_tqdm)

        def _generated(self, context: str, arguments: Mapping[str, Any]) -> str:
            served, asked = self._served, asked_of(arguments)
            room = served.longest - asked.max_new_tokens
            if room < 1:
                raise ConfigError(
                    f"max_gen_toks={asked.max_new_tokens} leaves no room for a prompt: the model was trained on at "
                    f"most {served.longest} tokens; lower it"
                )
            # as the tool's own models do: of a prompt that is too long, the beginning is left out
            ids = [*served.prefix, *served.encode(context)][-room:]
            return served.generate(served.inputs(ids or [served.first]), asked)

        def _each(self, kind: str, requests: Sequence[Any], do: Any, is_quiet: bool) -> list[Any]:
            found = []
            for request in _followed(requests, is_quiet):
                found.append(do(request.args))
                self.cache_hook.add_partial(kind, request.args, found[-1])
            return found

    return TextModel


@cache
def _image_model() -> type:
    from lmms_eval.api.model import lmms  # noqa: PLC0415 - see `__getattr__`

    class ImageModel(lmms):  # type: ignore[misc]  # of a package without types
        """A question and its images in the chat format, as `lab eval` writes it."""

        is_simple = True

        def __init__(
            self,
            model: str,
            device: str | None = None,
            precision: str | None = None,
            batch_size: int | str | None = None,
            max_batch_size: int | str | None = None,
            max_tiles: int | None = None,
        ) -> None:
            super().__init__()
            self._max_tiles = max_tiles
            self._served = serve(
                model,
                device=device,
                precision=precision,
                batch_size=batch_size,
                max_batch_size=max_batch_size,
                max_tiles=max_tiles,
            )

        def _prompt(self, text: str, images: Iterable[Any]) -> Inputs:
            seen = list(images)
            other = next((one for one in seen if not isinstance(one, Image.Image)), None)
            if other is not None:
                raise InputError(f"a question shows {type(other).__name__}, and the model reads images; leave it out")
            written, shown = place_images(text, seen)
            opened = self._served.respondent.opened
            return self._served.respondent.prompt(written, shown, max_tiles=opened.prompt.max_tiles)

        def _document(self, task: str, split: str, doc_id: int) -> Any:
            return self.task_dict[task][split][doc_id]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            found = []
            for request in _followed(requests, False):
                context, arguments, images_of, doc_id, task, split = request.args
                prompt = self._prompt(context, images_of(self._document(task, split, doc_id)) or [])
                found.append(self._served.generate(prompt, asked_of(arguments)).strip())
                self.cache_hook.add_partial("generate_until", (context, arguments), found[-1])
            return found

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            found = []
            for request in _followed(requests, False):
                context, target, images_of, doc_id, task, split = request.args
                document = self._document(task, split, doc_id)
                prompt = self._prompt(context, images_of(document) or [])
                ids = self._served.encode(target if isinstance(target, str) else target(document))
                value, is_greedy = self._served.respondent.log_likelihood(prompt, ids)
                found.append((value, is_greedy))
                self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
            return found

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise ConfigError("tasks of several rounds are not supported; choose others")

    return ImageModel


def _followed(requests: Sequence[Any], is_quiet: bool) -> Iterator[Any]:
    """The requests, with the progress bar that both tools use."""
    from tqdm import tqdm  # noqa: PLC0415 - comes with the tools

    yield from tqdm(requests, disable=is_quiet)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model

    register_model(NAME)(_text_model())
    try:
        cli_evaluate()
    except LabError as error:
        say(str(error))
        sys.exit(2)
