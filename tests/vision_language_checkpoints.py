"""Checkpoints of llava and internvl with random weights, as transformers writes them: small, with all files."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from lab.core.data.picture_format import IMAGENET
from lab.core.models.config import DecoderConfig
from lab.core.models.spec import families, family_of
from lab.core.models.vision_language_config import VisionLanguageConfig

SIDE = 16
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TOWERS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {"projection_dim": 16},
    # no divisor of its side
    "siglip_vision_model": {"patch_size": 5, "vision_use_head": False},
}
_WORDS = (
    "what is this ? how many are there , and colour the shape of first second third picture red blue green one two "
    "three cat dog yes no . a in describe it here : USER ASSISTANT user assistant system"
)
_LLAVA = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
# as the releases write them
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

_INTERNVL = ("<pad>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>", "<video>")
INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
_INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def write_llava(folder: Path, *, tower: str = "clip_vision_model", text: str = "llama", **changes: Any) -> Any:
    """A llava in a folder; the model of transformers.

    Args:
        folder: of the checkpoint.
        tower: `model_type` of the vision tower.
        text: `model_type` of the decoder.
        changes: of config.json.
    """
    import transformers  # noqa: PLC0415

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": SIDE, "patch_size": 4, "model_type": tower, **TOWERS[tower]}
    tokenizer = write_tokenizer(folder, _LLAVA, LLAVA_TEMPLATE)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config={"model_type": text, "vocab_size": len(tokenizer) + 3, **SIZES},
        image_token_index=_LLAVA.index("<image>"),
        **{"vision_feature_select_strategy": "default" if tower.startswith("clip") else "full", **changes},
    )
    model = drawn(transformers.LlavaForConditionalGeneration(config))
    _save(model, folder)
    if tower.startswith("clip"):
        processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE + 4}, crop_size=SIDE)
    else:
        processor = transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(folder)
    (folder / "processor_config.json").write_text(
        json.dumps(
            {
                "processor_class": "LlavaProcessor",
                "patch_size": vision["patch_size"],
                "num_additional_image_tokens": int(tower.startswith("clip")),
                "vision_feature_select_strategy": config.vision_feature_select_strategy,
            }
        )
    )
    return model


def write_internvl(folder: Path, *, text: str = "qwen2", max_patches: int = 6, **changes: Any) -> Any:
    """An InternVL in a folder; the model of transformers.

    Args:
        folder: of the checkpoint.
        text: `model_type` of the decoder.
        max_patches: most tiles of a picture.
        changes: of config.json.
    """
    import transformers  # noqa: PLC0415

    tokenizer = write_tokenizer(folder, _INTERNVL, INTERNVL_TEMPLATE, extra_special_tokens=_INTERNVL_TOKENS)
    config = transformers.InternVLConfig(
        vision_config={
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"image_size": [SIDE, SIDE], "patch_size": [4, 4]},
        },
        text_config={"model_type": text, "vocab_size": len(tokenizer) + 3, **SIZES},
        image_token_id=_INTERNVL.index("<IMG_CONTEXT>"),
        image_seq_length=4,
        **changes,
    )
    model = drawn(transformers.InternVLForConditionalGeneration(config))
    _save(model, folder)
    processor = transformers.GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, max_patches=max_patches, image_mean=list(IMAGENET.mean)
    )
    processor.save_pretrained(folder)
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return model


def write_tokenizer(folder: Path, special: tuple[str, ...], template: str, **names: Any) -> Any:
    """A tokenizer of words that opens every text with `<s>`, and a chat template.

    Args:
        folder: of the checkpoint.
        special: its special tokens, in the order of their ids.
        template: of chats.
        names: more keys of tokenizer_config.json.
    """
    import tokenizers  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys((*special, *_WORDS.split())))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Punctuation()]
    )
    made.add_special_tokens(list(special))
    made.decoder = tokenizers.decoders.WordPiece(prefix="##")
    if "<s>" in special:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    opening = {"bos_token": "<s>"} if "<s>" in special else {}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **opening, **names
    )
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template)
    return tokenizer


def _save(model: Any, folder: Path) -> None:
    from transformers.utils import logging  # noqa: PLC0415

    # its bar would be read as output of the test
    has_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if has_bar:
        logging.enable_progress_bar()


def drawn(model: Any) -> Any:
    """Random numbers in every tensor; norms near one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator) + float(is_norm))
    return model.eval()


def tiny_config(kind: type[VisionLanguageConfig], *, text: DecoderConfig, image_token_id: int) -> VisionLanguageConfig:
    """A small architecture of a family with a vision tower around a decoder of a text family."""
    spec = next(spec for spec in families().values() if spec.config is kind)
    tiles = spec.name == "internvl"
    size = {"height": SIDE, "width": SIDE}
    content: dict[str, Any] = {
        "vision_config": {
            "model_type": "internvl_vision" if tiles else "clip_vision_model",
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"image_size": SIDE, "patch_size": 4},
        },
        "text_config": family_of(text).config_json(text),
        "tie_word_embeddings": text.tie_output,
        "image_token_id": image_token_id,
        "image_processor": {"image_processor_type": "GotOcr2ImageProcessor", "size": size}
        if tiles
        else {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "crop_size": size},
    }
    config = spec.read(content)
    assert isinstance(config, kind)
    return config


def write_pictures(folder: Path, count: int = 5) -> list[Path]:
    """Files of several sizes, shapes and kinds."""
    random = np.random.default_rng(0)
    sizes = ((20, 30), (47, 16), (16, 16), (90, 33), (11, 70))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (width, height) in enumerate(sizes[:count]):
        smooth = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height))
        picture = smooth.convert("L") if number == 2 else smooth
        paths.append(folder / f"{number}.{'jpg' if number == 1 else 'png'}")
        picture.save(paths[-1])
    return paths


def messages(turns: list[str]) -> list[dict[str, Any]]:
    """A conversation as users of transformers write it; `<image>` stands for a picture."""
    found = []
    for i, turn in enumerate(turns):
        parts: list[dict[str, str]] = []
        for place, text in enumerate(turn.split("<image>")):
            parts += [{"type": "image"}] if place else []
            parts += [{"type": "text", "text": text.strip("\n")}] if text.strip("\n") else []
        found.append({"role": ("user", "assistant")[i % 2], "content": parts})
    return found


def processor_of(folder: Path) -> Any:
    """The processor of transformers in a folder, for pictures, where reading videos would need torchvision."""
    import transformers  # noqa: PLC0415

    settings = json.loads((folder / "processor_config.json").read_text())
    kind = getattr(transformers, settings.pop("processor_class"))
    parts = {
        "image_processor": transformers.AutoImageProcessor.from_pretrained(folder),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(folder),
        "chat_template": (folder / "chat_template.jinja").read_text(),
    }
    # None for videos is refused otherwise
    with mock.patch.object(kind, "check_argument_for_proper_class"):
        return kind(**parts, **settings)


def read_by(processor: Any, turns: list[str], pictures: list[Path]) -> Any:
    """What a processor of transformers makes of a conversation and picture files."""
    text = processor.apply_chat_template(messages(turns), add_generation_prompt=len(turns) % 2 == 1)
    images = [Image.open(path) for path in pictures] or None
    return processor(images=images, text=text, return_tensors="pt")
