"""A template of somebody else ends when it takes too much, changes nothing, and never ends the command that asks."""

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import pytest

from lab.core.data.jinja_chat import JinjaChat
from lab.core.data.template_renderer import Renderer
from lab.core.errors import InputError

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"


def request(source: str, text: str = "Why?") -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"source": source, "names": {"bos_token": "<s>"}, "messages": messages, "is_open": True, "day": "2025-03-09"}


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made._end()


def test_a_conversation_is_written_and_the_process_stays(renderer: Renderer) -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %} {{ strftime_now('%d %b %Y') }}"
    assert renderer.render(request(source, "ü\u2028\n")) == "<s>ü\u2028\n 09 Mar 2025"
    process = renderer._process
    assert renderer.render(request("{{ messages | tojson }}")) == '[{"role": "user", "content": "Why?"}]'
    assert renderer._process is process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (LOOPS, "it takes more than 2 s"),
        (DOUBLED + "{% if n.x == [n.x[0], n.x[1]] %}{{ n.x | string | length }}{% endif %}", "more than"),
        (DOUBLED + "{{ n.x }}", "more than"),
        ("{{ 10 ** (10 ** 10) }}", "more than"),
        ("{{ 'x' * 10 ** 11 }}", "it needs more than 512 MiB"),
        ("{{ 'x' * 10 ** 7 }}", "it makes 10,000,000 characters of a conversation that is shorter"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "it calls itself without end"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ],
)
def test_what_takes_too_much_is_refused_and_the_next_one_is_written(source: str, why: str, renderer: Renderer) -> None:
    before = time.process_time()
    with pytest.raises(InputError, match=why):
        renderer.render(request(source))
    assert time.process_time() - before < 1
    assert renderer.render(request("{{ messages[0].content }}")) == "Why?"


def test_nothing_but_the_conversation_can_be_reached(renderer: Renderer) -> None:
    for source in ("{% include '/etc/passwd' %}", "{{ cycler.__init__.__globals__.os }}", "{{ messages.clear() }}"):
        with pytest.raises(InputError):
            renderer.render(request(source))


def test_a_process_that_somebody_ends_is_started_again(renderer: Renderer) -> None:
    assert renderer.render(request("a")) == "a"
    assert renderer._process is not None
    for number in (signal.SIGKILL, signal.SIGINT):
        renderer._process.send_signal(number)
        assert renderer.render(request("b")) == "b"


def _render_twice(chat: JinjaChat) -> list[str]:
    return [chat.render([{"role": "user", "content": str(os.getpid())}], is_open=True) for _ in range(2)]


@pytest.mark.slow
def test_processes_do_not_read_each_others_answers() -> None:
    chat = JinjaChat("{{ messages[0].content }}", (), "x")
    assert _render_twice(chat) == [str(os.getpid())] * 2
    with get_context("fork").Pool(2) as pool:
        for found in pool.map(_render_twice, [chat] * 8):
            assert len(set(found)) == 1
    assert _render_twice(chat) == [str(os.getpid())] * 2
