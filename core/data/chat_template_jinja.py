"""The chat format of training as the Jinja template that transformers and servers read."""

import json

from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START


def chat_template(system: str, *, has_bos: bool) -> str:
    """A template whose text is that of `encode_conversation`; a picture is one `<img><IMG_CONTEXT></img>`.

    Args:
        system: the system message of conversations that begin without one.
        has_bos: whether every sequence begins with the tokenizer's BOS token.
    """
    image = f"{IMAGE_START}{IMAGE_CONTEXT}{IMAGE_END}"
    start, end = json.dumps(TURN_START), json.dumps(TURN_END)
    return "".join(
        (
            "{{ bos_token }}" if has_bos else "",
            "{% if not messages or messages[0]['role'] != 'system' %}",
            f"{{{{ {start} + 'system\\n' + {json.dumps(system)} + {end} }}}}",
            "{% endif %}",
            "{% for message in messages %}",
            f"{{{{ {start} + message['role'] + '\\n' }}}}",
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}",
            "{% for part in message['content'] %}",
            f"{{% if part['type'] == 'image' %}}{{{{ {json.dumps(image)} }}}}",
            "{{ '\\n' if not loop.last }}{% else %}{{ part['text'] }}{% endif %}",
            "{% endfor %}{% endif %}",
            f"{{{{ {end} }}}}",
            "{% endfor %}",
            f"{{% if add_generation_prompt %}}{{{{ {start} + 'assistant\\n' }}}}{{% endif %}}",
        )
    )
