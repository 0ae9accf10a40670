"""Greedy tokens are those of the full forward pass, draws follow the law that was asked for, text comes in pieces."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lab.core.data.public_tokenizers import JsonTokenizer
from lab.core.data.tokenizers import SPECIAL_TOKENS, WordTokenizer
from lab.core.errors import ConfigError, InputError
from lab.core.mixers.gated_deltanet import GatedDeltaNetOptions
from lab.core.mixers.mamba2 import Mamba2Options
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.mixers.spec import mixer_like
from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.generation import (
    SamplingConfig,
    TextStream,
    allocate,
    choose,
    depends_on_room,
    generate,
    longest_answer,
    next_token_distribution,
)
from lab.core.models.hovle.config import HovleConfig
from lab.core.models.spec import build
from lab.core.models.steps import Steps

NUM_IDS, IMAGE, NATIVE = 40, 49, 64
PLAIN = RotaryConfig(theta=10000.0, max_length=NATIVE)
DYNAMIC = RotaryConfig(theta=10000.0, max_length=NATIVE, kind=RotaryKind.dynamic, factor=2.0)
GREEDY = SamplingConfig()
# numbers of the layers, through the embedding first, that are Mamba-2
LAYERS = {"teacher": (), "hybrid": (0, 2), "linear": (0, 1, 2)}


def drawn(linear: tuple[int, ...], *, shuffle: str = "pre", rotary: RotaryConfig = PLAIN) -> LanguageModel:
    """A model of one embedding layer and two of the language model, in float64, every tensor random."""

    def stack(num_layers: int) -> DecoderConfig:
        return DecoderConfig(
            num_layers=num_layers,
            hidden_size=16,
            intermediate_size=16,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            vocab_size=50,
            rms_norm_eps=1e-5,
            rotary=rotary,
        )

    vision = VisionConfig(
        image_size=16,
        patch_size=4,
        num_channels=3,
        shuffle_factor=2,
        pixel_shuffle=PixelShuffle(shuffle),
        image_token_id=IMAGE,
    )
    model = build(HovleConfig(vision=vision, embedding=stack(1), llm=stack(2)), dtype=torch.float64)
    for layer in model.mixer_layers():
        if layer.index in linear:
            assert isinstance(layer.layer.mixer, SoftmaxAttention)
            layer.layer.mixer = mixer_like(layer.layer.mixer, Mamba2Options())
    model = model.to_empty(device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    return model.requires_grad_(False).eval()


def prompt_of(shuffle: str, *, length: int = 9) -> Inputs:
    """Text, a tile, text."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(0, NUM_IDS, (1, length), generator=generator)
    tile = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=generator)

    def with_marks(number: int) -> Tensor:
        return torch.cat([words[:, :2], torch.full((1, number), IMAGE), words[:, 2:]], dim=1)

    return Inputs(tokens=with_marks(4), pixel_values=tile, hd_tokens=with_marks(16) if shuffle == "post" else None)


def answered(model: LanguageModel, prompt: Inputs, **changes: Any) -> list[int]:
    options: dict[str, Any] = {"sampling": GREEDY, "max_new_tokens": 12, "num_ids": NUM_IDS, "stop_ids": ()}
    options |= {"generator": torch.Generator().manual_seed(0)} | changes
    state = allocate(model, prompt, options["max_new_tokens"])
    return list(generate(Steps(model, state), prompt, **options))


@pytest.mark.parametrize("shuffle", ["pre", "post"])
@pytest.mark.parametrize("linear", LAYERS.values(), ids=LAYERS)
def test_greedy_tokens_are_the_likeliest_of_the_full_forward_pass(linear: tuple[int, ...], shuffle: str) -> None:
    model, prompt = drawn(linear, shuffle=shuffle), prompt_of(shuffle)
    expected: list[int] = []
    for _ in range(12):
        more = torch.tensor([expected], dtype=torch.int64)
        longer = Inputs(
            tokens=torch.cat([prompt.tokens, more], dim=1),
            pixel_values=prompt.pixel_values,
            hd_tokens=None if prompt.hd_tokens is None else torch.cat([prompt.hd_tokens, more], dim=1),
        )
        expected.append(int(model(longer)[0, -1, :NUM_IDS].argmax()))
    assert answered(model, prompt) == expected
    assert len(set(expected)) > 1, "an answer that repeats itself shows nothing"


def test_an_answer_ends_with_the_first_token_that_ends_it() -> None:
    model, prompt = drawn(LAYERS["hybrid"]), prompt_of("pre")
    whole = answered(model, prompt)
    assert answered(model, prompt, stop_ids={whole[5]}) == whole[: whole.index(whole[5]) + 1]


def test_ids_without_a_text_are_never_chosen() -> None:
    model, prompt = drawn(LAYERS["linear"]), prompt_of("pre")
    hot = SamplingConfig(temperature=100.0)
    assert max(answered(model, prompt, num_ids=3, max_new_tokens=40, sampling=hot)) < 3


def test_a_seed_repeats_an_answer_and_another_does_not() -> None:
    model, prompt, warm = drawn(LAYERS["linear"]), prompt_of("pre"), SamplingConfig(temperature=1.0)
    first, again, other = (
        answered(model, prompt, sampling=warm, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_an_answer_may_be_as_long_as_the_rotary_embedding_lets_it() -> None:
    model, prompt = drawn(LAYERS["hybrid"]), prompt_of("pre")
    room = longest_answer(model, prompt)
    assert room == NATIVE - 13 + 1
    assert len(answered(model, prompt, max_new_tokens=room)) == room
    with pytest.raises(InputError, match="has 65 tokens but the model was trained on at most 64"):
        answered(model, prompt, max_new_tokens=room + 1)


def test_the_longer_of_two_sequences_decides() -> None:
    assert longest_answer(drawn(LAYERS["teacher"], shuffle="post"), prompt_of("post")) == NATIVE - 25 + 1
    # the layer that reads every patch has no positions any more
    assert longest_answer(drawn((0,), shuffle="post"), prompt_of("post")) == NATIVE - 13 + 1


def test_mamba2_and_dynamic_angles_have_no_end() -> None:
    assert longest_answer(drawn(LAYERS["linear"]), prompt_of("pre", length=100)) is None
    assert longest_answer(drawn(LAYERS["teacher"], rotary=DYNAMIC), prompt_of("pre", length=100)) is None


@pytest.mark.parametrize("kind", RotaryKind)
@pytest.mark.parametrize("keeps", [None, False, True])
def test_scores_depend_on_the_room_where_angles_do(kind: RotaryKind, keeps: bool | None) -> None:
    """Of softmax attention (`keeps` is None), and of a linear mixer that keeps its rotary embedding or does not."""
    scaled: dict[str, Any] = {"original_length": 32} if kind in (RotaryKind.llama3, RotaryKind.yarn) else {}
    if kind is RotaryKind.longrope:
        scaled = {"original_length": 32, "short_factors": [1.0] * 4, "long_factors": [2.0] * 4}
    model = drawn((), rotary=RotaryConfig(theta=10000.0, max_length=NATIVE, kind=kind, **scaled))
    if keeps is not None:
        for layer in model.mixer_layers():
            assert isinstance(layer.layer.mixer, SoftmaxAttention)
            layer.layer.mixer = mixer_like(layer.layer.mixer, GatedDeltaNetOptions(rotary=keeps))
    assert depends_on_room(model) == (keeps is not False and kind in (RotaryKind.dynamic, RotaryKind.longrope))


@pytest.mark.parametrize("score", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(temperature=1.0)])
def test_scores_that_are_not_finite_are_refused(score: float, sampling: SamplingConfig) -> None:
    logits = torch.tensor([0.0, score, 1.0])
    with pytest.raises(InputError, match=r"scores of the next token hold NaN or infinity in torch\.float32"):
        choose(logits, sampling, torch.Generator())


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_single_token_without_an_embedding_is_refused(is_compiled: bool) -> None:
    model = drawn(LAYERS["hybrid"])
    steps = Steps(model, model.allocate_state(1, max_length=9))
    if not is_compiled:
        steps._program = None
    with pytest.raises(InputError, match="tokens hold 50 but ids must lie in"):
        steps.logits(Inputs(tokens=torch.tensor([[50]])))


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="the prompt has 65 tokens, those of images"):
        longest_answer(drawn(LAYERS["teacher"]), prompt_of("pre", length=61))


def test_the_state_of_a_linear_student_does_not_depend_on_the_length() -> None:
    model = drawn(LAYERS["linear"])
    sizes = {allocate(model, prompt_of("pre", length=n), m).num_bytes for n, m in ((5, 1), (9, 500))}
    assert len(sizes) == 1


logits_and_sampling = st.tuples(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12),
    st.floats(0.1, 3),
    st.none() | st.integers(1, 14),
    st.none() | st.floats(0.01, 1),
)


@given(logits_and_sampling)
def test_the_law_is_the_tempered_softmax_on_the_tokens_that_stay(
    drawn_case: tuple[list[float], float, int | None, float | None],
) -> None:
    values, temperature, top_k, top_p = drawn_case
    logits = torch.tensor(values, dtype=torch.float64)
    law = next_token_distribution(logits, SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p))
    order = sorted(range(len(values)), key=lambda i: -values[i])[:top_k]
    weights = {i: torch.exp((logits[i] - logits.max()) / temperature).item() for i in order}
    total, kept, mass = sum(weights.values()), [], 0.0
    for i in order:
        kept.append(i)
        mass += weights[i] / total
        if top_p is not None and mass >= top_p - 1e-12:
            break
    expected = torch.zeros_like(logits)
    for i in kept:
        expected[i] = weights[i] / sum(weights[j] for j in kept)
    # a sum that rounds to just below top_p may keep one token more, of no more than the rounding's account
    if (law > 0).sum() == len(kept):
        torch.testing.assert_close(law, expected, rtol=1e-9, atol=1e-12)
    else:
        assert abs(mass - (top_p or 1)) < 1e-9


def test_draws_follow_the_law() -> None:
    sampling = SamplingConfig(temperature=0.7, top_k=4)
    logits = torch.tensor([0.3, -1.0, 1.2, 0.9, 0.1, -0.4])
    generator = torch.Generator().manual_seed(0)
    num_draws = 4000
    counts = torch.bincount(torch.tensor([choose(logits, sampling, generator) for _ in range(num_draws)]), minlength=6)
    law = next_token_distribution(logits, sampling)
    spread = (law * (1 - law) * num_draws).sqrt()
    assert ((counts - num_draws * law).abs() <= 4 * spread).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be .*; 0 is greedy"),
        ({"temperature": float("nan")}, "temperature=nan must be .*; 0 is greedy"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0 must be 1 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1"),
        ({"top_k": 3}, "top_k=3 with temperature=0"),
        ({"top_p": 0.5}, "top_p=0.5 with temperature=0"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        SamplingConfig(**options)


WORDS = ("\n", ".", ",", "?", ":", "user", "Which", "bag", "it's", "8")


@given(st.lists(st.integers(0, len(SPECIAL_TOKENS) + len(WORDS) - 1)))
def test_pieces_of_words_make_the_text(ids: list[int]) -> None:
    tokenizer = WordTokenizer(WORDS)
    stream = TextStream(tokenizer)
    assert "".join([*map(stream.push, ids), stream.rest()]) == tokenizer.decode(ids)


@given(st.text(alphabet=st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=20))
def test_a_letter_of_several_tokens_comes_in_one_piece(byte_tokenizer: JsonTokenizer, text: str) -> None:
    stream = TextStream(byte_tokenizer)
    pieces = [*map(stream.push, byte_tokenizer.encode(text)), stream.rest()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_letter_that_is_cut_off_is_given_as_far_as_it_goes(byte_tokenizer: JsonTokenizer) -> None:
    stream = TextStream(byte_tokenizer)
    ids = byte_tokenizer.encode("aé")
    assert [*map(stream.push, ids[:-1]), stream.rest()] == ["a", "", "\ufffd"]


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    """A tokenizer of single bytes."""
    tokenizers: Any = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=0, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([], trainer)
    path: Path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    tokenizer.save(str(path))
    return JsonTokenizer(path)
