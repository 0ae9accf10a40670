"""Patterns of softmax layers."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lab.core.errors import ConfigError
from lab.experiments.distill.placement import HybridConfig, Placement, softmax_layers

INTERLEAVED = (Placement.head_interleaved, Placement.tail_interleaved)
STACKED = (Placement.head_stacked, Placement.tail_stacked)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (HybridConfig(), ()),
        (HybridConfig(placement=Placement.all), tuple(range(32))),
        # the released hybrid
        (HybridConfig(placement=Placement.head_interleaved, number=4), (0, 4, 8, 12, 16, 20, 24, 28)),
        (HybridConfig(placement=Placement.tail_interleaved, number=4), (3, 7, 11, 15, 19, 23, 27, 31)),
        (HybridConfig(placement=Placement.head_stacked, number=8), tuple(range(8))),
        (HybridConfig(placement=Placement.tail_stacked, number=8), tuple(range(24, 32))),
        (HybridConfig(placement=Placement.listed, layers=[9, 0, 31]), (0, 9, 31)),
        (HybridConfig(placement=Placement.listed, layers=[]), ()),
    ],
)
def test_patterns_of_the_released_model(config: HybridConfig, expected: tuple[int, ...]) -> None:
    assert softmax_layers(config, 32) == expected


@given(num_layers=st.integers(1, 40), number=st.integers(1, 40))
def test_a_pattern_keeps_as_many_layers_as_it_says(num_layers: int, number: int) -> None:
    assume(number <= num_layers)
    for placement in (*INTERLEAVED, *STACKED):
        layers = softmax_layers(HybridConfig(placement=placement, number=number), num_layers)
        assert list(layers) == sorted(set(layers) & set(range(num_layers)))
        whole_blocks = num_layers // number
        counts = {
            Placement.head_interleaved: -(-num_layers // number),
            Placement.tail_interleaved: whole_blocks,
            Placement.head_stacked: number,
            Placement.tail_stacked: number,
        }
        assert len(layers) == counts[placement]
    head, tail = (HybridConfig(placement=placement, number=number) for placement in INTERLEAVED)
    if num_layers % number == 0:
        mirrored = [num_layers - 1 - index for index in softmax_layers(head, num_layers)]
        assert list(softmax_layers(tail, num_layers)) == mirrored[::-1]


@pytest.mark.parametrize("index", [99, 32, -1])
def test_a_layer_that_does_not_exist_is_refused(index: int) -> None:
    config = HybridConfig(placement=Placement.listed, layers=[3, index])
    with pytest.raises(ConfigError, match=f"layers names layer {index} but the model has 32; give numbers from"):
        softmax_layers(config, 32)


@pytest.mark.parametrize("placement", [*INTERLEAVED, *STACKED])
def test_a_pattern_for_a_deeper_model_is_refused(placement: Placement) -> None:
    with pytest.raises(ConfigError, match="number=5 must be at most 4, the number of layers"):
        softmax_layers(HybridConfig(placement=placement, number=5), 4)


@pytest.mark.parametrize(
    ("placement", "number", "layers", "message"),
    [
        (Placement.none, 4, None, "hybrid.number=4 has no meaning with hybrid.placement=none"),
        (Placement.head_stacked, None, None, "hybrid.number=None must be given with hybrid.placement=head_stacked"),
        (Placement.head_stacked, 0, None, "number=0 must be 1 or more; placement=none"),
        (Placement.listed, None, None, "hybrid.layers=None must be given with hybrid.placement=listed"),
        (Placement.all, None, [1], "hybrid.layers=\\[1\\] has no meaning with hybrid.placement=all"),
        (Placement.listed, None, [1, 2, 1], "hybrid.layers=\\[1, 2, 1\\] names a layer twice"),
    ],
)
def test_contradictions_are_refused(
    placement: Placement, number: int | None, layers: list[int] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        HybridConfig(placement=placement, number=number, layers=layers)
