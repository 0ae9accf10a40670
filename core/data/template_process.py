"""The process in which chat templates are rendered: Jinja's sandbox, and limits that no template can lift.

Run as a script, so that it loads nothing but Jinja. Requests and answers are lines of JSON on its streams.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from datetime import date
from functools import lru_cache
from typing import Any

# of a conversation: the longest take a hundredth of a second
CPU_SECONDS = 2.0
# beyond what the process has when it begins
_MOST_BYTES = 512 * 2**20
# what a template adds is a few thousand characters, and a text of the conversation comes twice at most
_MOST_ADDED, _MOST_TIMES = 1_000_000, 4


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The text of a conversation under `text`, or under `error` why there is none.

    Args:
        request: `source` of the template, `names` that it may call, `messages`, `is_open`, `day`; see `JinjaChat`.
    """
    import jinja2  # noqa: PLC0415 - behind what this process ignores

    try:
        text = _compiled(request["source"]).render(
            messages=request["messages"],
            add_generation_prompt=request["is_open"],
            strftime_now=date.fromisoformat(request["day"]).strftime,
            tools=None,
            documents=None,
            **request["names"],
        )
        text.encode()
    # what its operations on the conversation raise
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        return {"error": (str(error).splitlines() or [type(error).__name__])[0]}
    except RecursionError:
        return {"error": "it calls itself without end, or its brackets are too deep"}
    except MemoryError:
        return {"error": f"it needs more than {_MOST_BYTES // 2**20} MiB"}
    if len(text) > _MOST_ADDED + _MOST_TIMES * sum(len(str(message["content"])) for message in request["messages"]):
        return {"error": f"it makes {len(text):,} characters of a conversation that is shorter"}
    return {"text": text}


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    from jinja2 import TemplateError, nodes  # noqa: PLC0415
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    class Generation(Extension):
        """`{% generation %}` marks what the assistant wrote; it is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    def tojson(value: object, **options: Any) -> str:
        # Jinja's own escapes what HTML needs
        known = {key: options[key] for key in ("indent", "separators", "sort_keys") if key in options}
        return json.dumps(value, ensure_ascii=options.get("ensure_ascii", False), **known)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source)


def _serve() -> None:
    # it ends when its streams do, with the process that it works for
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # before limits: what is loaded counts, and no file is read or written for a template
    _compiled("")
    answer({"source": "", "names": {}, "messages": [], "is_open": False, "day": "2024-07-26"})
    _limit(resource.RLIMIT_AS, _size() + _MOST_BYTES)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    for line in requests:
        # SIGPROF ends the process, whatever it is in
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        said = json.dumps(answer(json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(f"{said}\n".encode())
        answers.flush()


def _limit(kind: int, most: int) -> None:
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (most, most))


def _size() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    # not Linux
    except OSError:
        return 2**40


if __name__ == "__main__":
    _serve()
