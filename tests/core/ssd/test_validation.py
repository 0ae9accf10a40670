"""The door of the SSD operator refuses what does not fit, in one line that says what to do."""

import pytest
import torch
from torch import Tensor

from lab.core.errors import BackendError, InputError
from lab.core.ssd import ssd


def fitting() -> dict[str, Tensor]:
    """Batch 2, 7 tokens, 4 heads in 2 groups, head_dim 3, state_dim 5."""
    return {
        "x": torch.ones(2, 7, 4, 3),
        "dt": torch.ones(2, 7, 4),
        "A": -torch.ones(4),
        "B": torch.ones(2, 7, 2, 5),
        "C": torch.ones(2, 7, 2, 5),
        "D": torch.ones(4),
        "dt_bias": torch.ones(4),
        "initial_state": torch.ones(2, 4, 3, 5),
    }


def refusal(**changed: object) -> str:
    with pytest.raises(InputError) as caught:
        ssd(**{**fitting(), **changed})  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", (2, 7, 12)),
        ("x", (2, 7, 4, 0)),
        ("dt", (2, 7, 3)),
        ("dt", (2, 8, 4)),
        ("dt", (2, 7, 4, 1)),
        ("A", (1,)),
        ("A", (4, 5)),
        ("B", (2, 7, 10)),
        ("B", (1, 7, 2, 5)),
        ("B", (2, 7, 2, 0)),
        ("C", (2, 7, 1, 5)),
        ("C", (2, 7, 2, 6)),
        ("D", (3,)),
        ("D", (4, 4)),
        ("dt_bias", (2,)),
        ("initial_state", (2, 4, 5, 3)),
        ("initial_state", (1, 4, 3, 5)),
    ],
)
def test_a_wrong_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    message = refusal(**{name: torch.ones(shape)})
    assert message.startswith(f"{name} has shape {shape}")


def test_groups_must_divide_the_heads() -> None:
    assert "3 groups but x has 4 heads" in refusal(B=torch.ones(2, 7, 3, 5), C=torch.ones(2, 7, 3, 5))


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": torch.ones(2, 7, 4, 3, dtype=torch.int64)}, "x has dtype torch.int64"),
        ({"x": torch.ones(2, 7, 4, 3, dtype=torch.complex64)}, "x has dtype torch.complex64"),
        ({"B": torch.ones(2, 7, 2, 5, dtype=torch.bfloat16)}, "B has dtype torch.bfloat16 but x has torch.float32"),
        ({"dt": torch.ones(2, 7, 4, dtype=torch.float64)}, "cast dt to torch.float32"),
        ({"A": torch.ones(4, dtype=torch.int32)}, "A has dtype torch.int32"),
        ({"A": -torch.ones(4, device="meta")}, "A is on meta but x is on cpu"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"chunk_size": 2.5}, "chunk_size=2.5"),
        ({"chunk_size": True}, "chunk_size=True"),
        ({"cu_seqlens": torch.tensor([0, 7])}, "x has batch 2"),
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
    one_row = {name: fitting()[name][:1] for name in ("x", "dt", "B", "C")}
    assert refusal(**one_row, initial_state=None, cu_seqlens=starts).startswith("cu_seqlens")


def test_packed_sequences_have_a_state_each() -> None:
    one_row = {name: fitting()[name][:1] for name in ("x", "dt", "B", "C")}
    message = refusal(**one_row, initial_state=torch.ones(1, 4, 3, 5), cu_seqlens=torch.tensor([0, 3, 7]))
    assert "must have shape (2, 4, 3, 5)" in message


def test_what_fits_is_accepted() -> None:
    assert ssd(**fitting()).y.shape == (2, 7, 4, 3)
    assert ssd(**{**fitting(), "D": torch.ones(4, 3), "chunk_size": 3}).y.shape == (2, 7, 4, 3)


def test_all_implementations_on_the_cpu_give_the_same() -> None:
    torch.testing.assert_close(ssd(**fitting(), backend="reference"), ssd(**fitting(), backend="chunked"))


def test_an_implementation_that_does_not_exist_is_named() -> None:
    with pytest.raises(BackendError, match="fastest"):
        ssd(**fitting(), backend="fastest")
