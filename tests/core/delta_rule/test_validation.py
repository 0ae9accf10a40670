"""The door of the gated delta rule refuses what does not fit, in one line that says what to do."""

import pytest
import torch
from torch import Tensor

from lab.core.delta_rule import gated_delta_rule
from lab.core.errors import BackendError, InputError


def fitting() -> dict[str, Tensor]:
    """Batch 2, 7 tokens, 4 heads that share two of keys and values, key_dim 5, value_dim 3."""
    return {
        "q": torch.ones(2, 7, 4, 5),
        "k": torch.ones(2, 7, 2, 5),
        "v": torch.ones(2, 7, 2, 3),
        "g": -torch.ones(2, 7, 4),
        "beta": torch.ones(2, 7, 4) / 10,
        "initial_state": torch.ones(2, 4, 3, 5),
    }


def refusal(**changed: object) -> str:
    with pytest.raises(InputError) as caught:
        gated_delta_rule(**{**fitting(), **changed})  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("q", (2, 7, 20)),
        ("q", (2, 7, 4, 0)),
        ("q", (2, 7, 4, 6)),
        ("q", (2, 8, 4, 5)),
        ("k", (2, 7, 10)),
        ("k", (2, 7, 0, 5)),
        ("k", (1, 7, 2, 5)),
        ("v", (2, 7, 2, 0)),
        ("v", (2, 6, 2, 3)),
        ("g", (2, 7)),
        ("g", (2, 7, 0)),
        ("beta", (2, 7, 2)),
        ("initial_state", (2, 4, 5, 3)),
        ("initial_state", (1, 4, 3, 5)),
    ],
)
def test_a_wrong_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    message = refusal(**{name: torch.ones(shape)})
    assert message.startswith(f"{name} has shape {shape}")


@pytest.mark.parametrize(("name", "width"), [("q", 5), ("k", 5), ("v", 3)])
@pytest.mark.parametrize("num_heads", [3, 8])
def test_heads_that_share_must_divide_all(name: str, width: int, num_heads: int) -> None:
    message = refusal(**{name: torch.ones(2, 7, num_heads, width)})
    assert message.startswith(f"{name} has {num_heads} heads but g has 4; give")


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"q": torch.ones(2, 7, 4, 5, dtype=torch.int64)}, "q has dtype torch.int64"),
        ({"q": torch.ones(2, 7, 4, 5, dtype=torch.complex64)}, "q has dtype torch.complex64"),
        ({"v": torch.ones(2, 7, 2, 3, dtype=torch.bfloat16)}, "v has dtype torch.bfloat16 but q has torch.float32"),
        ({"g": torch.ones(2, 7, 4, dtype=torch.float64)}, "cast g to torch.float32"),
        ({"beta": torch.ones(2, 7, 4, dtype=torch.int32)}, "beta has dtype torch.int32"),
        ({"beta": torch.ones(2, 7, 4, device="meta")}, "beta is on meta but q is on cpu"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"chunk_size": 2.5}, "chunk_size=2.5"),
        ({"chunk_size": True}, "chunk_size=True"),
        ({"scale": None}, "scale=None"),
        ({"scale": "1"}, "scale='1'"),
        ({"cu_seqlens": torch.tensor([0, 7])}, "g has batch 2"),
    ],
)
def test_wrong_dtypes_devices_and_numbers_are_named(changed: dict[str, object], words: str) -> None:
    assert words in refusal(**changed)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    "starts",
    [
        torch.tensor([1, 7]),
        torch.tensor([0, 6]),
        torch.tensor([0, 5, 3, 7]),
        torch.tensor([0.0, 7.0]),
        torch.tensor([[0, 7]]),
        torch.tensor([], dtype=torch.int64),
    ],
)
def test_boundaries_that_are_none_are_refused(starts: Tensor) -> None:
    one_row = {name: fitting()[name][:1] for name in ("q", "k", "v", "g", "beta")}
    assert refusal(**one_row, initial_state=None, cu_seqlens=starts).startswith("cu_seqlens")


def test_packed_sequences_have_a_state_each() -> None:
    one_row = {name: fitting()[name][:1] for name in ("q", "k", "v", "g", "beta")}
    message = refusal(**one_row, initial_state=torch.ones(1, 4, 3, 5), cu_seqlens=torch.tensor([0, 3, 7]))
    assert "must have shape (2, 4, 3, 5)" in message


def test_what_fits_is_accepted() -> None:
    output = gated_delta_rule(**fitting(), scale=2, chunk_size=3)
    assert (output.y.shape, output.final_state.shape) == ((2, 7, 4, 3), (2, 4, 3, 5))


def test_all_implementations_on_the_cpu_give_the_same() -> None:
    torch.testing.assert_close(
        gated_delta_rule(**fitting(), backend="reference"), gated_delta_rule(**fitting(), backend="chunked")
    )


def test_an_implementation_that_does_not_exist_is_named() -> None:
    with pytest.raises(BackendError, match=r"'fastest' does not exist; choose from auto, fla, chunked, reference"):
        gated_delta_rule(**fitting(), backend="fastest")


def test_kernels_that_cannot_run_are_refused_with_the_reason() -> None:
    with pytest.raises(
        BackendError, match=r"'fla' cannot run on cpu: it needs a CUDA device; use one of auto, chunked"
    ):
        gated_delta_rule(**fitting(), backend="fla")
