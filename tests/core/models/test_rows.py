"""Sequences side by side give what each gives alone, whatever the others are."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

from drawn import one_in
from lab.core.mixers.gated_deltanet import GatedDeltaNetOptions
from lab.core.mixers.mamba2 import Mamba2Options
from lab.core.mixers.options import MixerOptions
from lab.core.mixers.rotary import RotaryConfig
from lab.core.mixers.spec import mixer_like
from lab.core.models.config import PixelShuffle
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.families import build_random
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.llama.config import LlamaConfig
from lab.core.models.rows import Rows
from lab.core.models.steps import Steps
from lab.core.products import current

CPU = torch.device("cpu")
LENGTHS, NUM_NEW = (9, 2, 5, 1, 12), 6
KEPT: dict[str, tuple[int, ...]] = {"teacher": (0, 1, 2), "hybrid": (1,), "linear": ()}
MIXERS = {"mamba2": Mamba2Options(), "gated_deltanet": GatedDeltaNetOptions()}


def decoder(options: MixerOptions | None, kept: tuple[int, ...], dtype: torch.dtype) -> LanguageModel:
    """Three layers; those that are kept are attention."""
    sizes = {"num_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "num_kv_heads": 2}
    rotary = RotaryConfig(theta=1e4, max_length=64)
    config = LlamaConfig(**sizes, head_dim=8, vocab_size=40, rms_norm_eps=1e-5, rotary=rotary)
    generator = torch.Generator().manual_seed(0)
    model = build_random(config, device=CPU, dtype=dtype, generator=generator, std=0.3)
    for layer in model.mixer_layers():
        if options is not None and layer.index not in kept:
            mixer = mixer_like(layer.layer.mixer, options).to_empty(device=CPU)
            for parameter in mixer.parameters():
                parameter.data.normal_(std=0.3, generator=generator)
            layer.layer.mixer = mixer
    model.choose_backends()
    return model.eval().requires_grad_(False)


def prompts(vocab_size: int) -> list[Inputs]:
    generator = torch.Generator().manual_seed(1)
    return [Inputs(tokens=torch.randint(0, vocab_size, (1, length), generator=generator)) for length in LENGTHS]


def alone(model: LanguageModel, prompt: Inputs) -> tuple[list[int], torch.Tensor]:
    """The likeliest tokens after a prompt, and all their scores."""
    steps = Steps(model, model.allocate_state(1, max_length=prompt.tokens.shape[1] + NUM_NEW))
    tokens, scores = [], []
    inputs = prompt
    for _ in range(NUM_NEW):
        scores.append(steps.logits(inputs)[0].clone())
        tokens.append(int(scores[-1].argmax()))
        inputs = Inputs(tokens=torch.tensor([[tokens[-1]]]))
    return tokens, torch.stack(scores)


def side_by_side(rows: Rows, asked: list[Inputs], num_rows: int) -> list[tuple[list[int], torch.Tensor]]:
    """As `alone`, each prompt in the first row that is free."""
    waiting = list(range(len(asked)))
    owners: list[int | None] = [None] * num_rows
    tokens: dict[int, list[int]] = {}
    scores: dict[int, list[torch.Tensor]] = {}

    def take(row: int, found: torch.Tensor) -> None:
        place = owners[row]
        assert place is not None
        scores[place].append(found.clone())
        tokens[place].append(int(found.argmax()))
        # answers end at different times
        if len(tokens[place]) == NUM_NEW - place % 3:
            owners[row] = None
            rows.free(row)

    while waiting or any(owner is not None for owner in owners):
        for row in range(num_rows):
            if owners[row] is None and waiting:
                place = owners[row] = waiting.pop(0)
                tokens[place], scores[place] = [], []
                take(row, rows.read(row, asked[place]))
        last = torch.tensor([0 if owner is None else tokens[owner][-1] for owner in owners])
        found = rows.step(last, is_free=[owner is None for owner in owners])
        for row in range(num_rows):
            if owners[row] is not None:
                take(row, found[row])
    return [(tokens[place], torch.stack(scores[place])) for place in range(len(asked))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixer", "kind", "products"), one_in(3, list(product(MIXERS, KEPT, ("auto", "torch"))), of="rows")
)
def test_unequal_prompts_give_what_each_gives_alone(mixer: str, kind: str, products: str) -> None:
    kept = KEPT[kind]
    with current.using(products):
        model = decoder(MIXERS[mixer], kept, torch.float32)
        asked = prompts(40)
        rows = Rows(model, 2, room=32)
        assert ("compiled" if products == "auto" else "torch") in rows.how
        for place, (tokens, scores) in enumerate(side_by_side(rows, asked, 2)):
            expected_tokens, expected = alone(model, asked[place])
            assert tokens == expected_tokens[: len(tokens)]
            torch.testing.assert_close(scores, expected[: len(scores)], rtol=1e-4, atol=1e-5)


def test_in_float64_to_the_last_digits() -> None:
    model = decoder(Mamba2Options(), (1,), torch.float64)
    asked = prompts(40)
    for place, (_, scores) in enumerate(side_by_side(Rows(model, 3, room=32), asked, 3)):
        torch.testing.assert_close(scores, alone(model, asked[place])[1][: len(scores)], rtol=1e-12, atol=1e-12)


def test_a_row_does_not_depend_on_the_others() -> None:
    model = decoder(Mamba2Options(), (1,), torch.float32)
    asked = prompts(40)
    found = []
    for neighbour in asked[1:3]:
        rows = Rows(model, 2, room=32)
        rows.read(1, neighbour)
        rows.read(0, asked[0])
        steps = [rows.step(torch.tensor([3, 4]), is_free=[False, False])[0].clone() for _ in range(4)]
        found.append(torch.stack(steps))
    assert found[0].equal(found[1])


def test_rows_of_a_model_whose_layers_read_different_numbers_of_tokens(tiny_hovle: Callable[..., HovleConfig]) -> None:
    config = tiny_hovle(PixelShuffle.post)
    generator = torch.Generator().manual_seed(0)
    model = build_random(config, device=CPU, dtype=torch.float32, generator=generator, std=0.2).eval()
    image, size = config.vision.image_token_id, config.vision.image_size
    tiles = torch.randn(1, 3, size, size, generator=generator)

    def about(num_words: int, tile: bool) -> Inputs:
        words = torch.randint(0, image, (1, num_words), generator=generator)
        if not tile:
            return Inputs(tokens=words)
        at = [torch.cat([words, torch.full((1, count), image), words[:, :2]], dim=1) for count in (4, 16)]
        return Inputs(tokens=at[0], pixel_values=tiles, hd_tokens=at[1])

    asked = [about(5, True), about(3, False), about(2, True)]
    rows = Rows(model, 2, room=32, hd_room=64)
    for place, (tokens, scores) in enumerate(side_by_side(rows, asked, 2)):
        hd = asked[place].hd_tokens
        room = asked[place].tokens.shape[1] + NUM_NEW
        steps = Steps(model, model.allocate_state(1, max_length=room, hd_max_length=None if hd is None else room + 12))
        first = steps.logits(asked[place])[0]
        torch.testing.assert_close(scores[0], first, rtol=1e-4, atol=1e-5)
        second = steps.logits(Inputs(tokens=torch.tensor([[tokens[0]]])))[0]
        torch.testing.assert_close(scores[1], second, rtol=1e-4, atol=1e-5)
