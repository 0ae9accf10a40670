"""Chat templates of families of public checkpoints, and a small byte-level tokenizer that has one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.core.data.jinja_chat import Message
from lab.core.data.prompt_format import TURN_END, TURN_START

SPECIAL = ("<s>", "</s>", TURN_START, TURN_END, "<|eot|>", "<|user|>", "<|assistant|>", "<|system|>")

# written for this test; each has what templates of its family do
TEMPLATES = {
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou help<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama": (
        "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- else %}{%- set day = '?' %}"
        "{%- endif %}{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}"
        "{%- set system = '' %}{%- endif %}\n{{- '<|system|>\n\nToday: ' + day + '\n\n' + system + '<|eot|>' }}"
        "{%- for message in messages %}\n    {{- '<|' + message.role + '|>\n\n' + message.content | trim + '<|eot|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>\n\n' }}{%- endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "qwen3": (
        "{%- if tools %}{{- 'tools' | tojson }}{%- endif %}{%- set ns = namespace(last=messages|length - 1) %}"
        "{%- for message in messages[::-1] %}{%- if message.role == 'user' %}"
        "{%- set ns.last = messages|length - loop.index %}{%- break %}{%- endif %}{%- endfor %}"
        "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>' }}{%- endif %}{%- endif %}"
    ),
    "smollm3": (
        "{%- for message in messages -%}{%- if message.role == 'assistant' -%}"
        "{%- generation -%}{{ '<|im_start|>assistant\n' ~ message.content ~ '<|im_end|>\n' }}{%- endgeneration -%}"
        "{%- else -%}{{ '<|im_start|>' ~ message.role ~ '\n' ~ ({'text': message.content} | tojson) ~ '<|im_end|>\n' }}"
        "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    ),
    "phi3": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + '\n' + message['content'] + '<|eot|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
}


def write_tokenizer(folder: Path, template: str | None, *, in_file: bool = False, bos: object = "<s>") -> None:
    """Write it, with a template or without, in tokenizer_config.json or in a file beside it."""
    tokenizers: Any = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=list(SPECIAL),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["system user assistant Today because yes"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": "</s>"}
    if template is not None and in_file:
        (folder / "chat_template.jinja").write_text(template)
    elif template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def messages_of(turns: Sequence[str], system: str = "") -> list[Message]:
    """Turns of a user and an assistant as templates read them."""
    spoken: list[Message] = [{"role": "system", "content": system}] if system else []
    return spoken + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
