"""A stream depends on the seed, its purpose and its indices alone."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import InputError
from lab.core.runs.random_streams import Seeds

KEYS = st.tuples(st.integers(0, 2**32), st.sampled_from(["noise", "state", "rows"]), st.integers(0, 1000))


def drawn(seed: int, purpose: str, *indices: int) -> list[int]:
    return list(Seeds(seed).numpy(purpose, *indices).integers(0, 2**62, size=4))


@given(keys=st.lists(KEYS, min_size=2, max_size=6, unique=True))
def test_streams_do_not_depend_on_what_was_drawn_before(keys: list[tuple[int, str, int]]) -> None:
    forward = [drawn(*key) for key in keys]
    backward = [drawn(*key) for key in reversed(keys)]
    assert forward == backward[::-1]
    # different seed, purpose or index: 256 random bits that agree would be a defect
    assert len({tuple(numbers) for numbers in forward}) == len(keys)


def test_parts_have_streams_of_their_own_however_deep() -> None:
    seeds = Seeds(7)
    parts = [seeds, *(seeds.within("problem", k) for k in (1, 2)), seeds.within("problem", 1).within("problem", 2)]
    numbers = [tuple(part.numpy("rows", k).integers(0, 2**62, size=4)) for part in parts for k in (0, 1, 2)]
    assert len(set(numbers)) == 12
    again = Seeds(7).within("problem", 2).numpy("rows", 1).integers(0, 2**62, size=4)
    assert tuple(again) == numbers[7]


def test_streams_are_the_same_in_every_process() -> None:
    program = (
        "from lab.core.runs.random_streams import Seeds; "
        "print(*Seeds(7).numpy('rows', 3, 1).integers(0, 2**62, size=4))"
    )
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
        )
        assert [int(word) for word in done.stdout.split()] == drawn(7, "rows", 3, 1)


def test_the_number_of_indices_tells_streams_apart() -> None:
    assert drawn(0, "rows") != drawn(0, "rows", 0)
    assert drawn(0, "rows", 0) != drawn(0, "rows", 0, 0)
    assert drawn(0, "rows", 1, 2) != drawn(0, "rows", 2, 1)


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = np.stack([Seeds(0).numpy("rows", index).standard_normal(10_000) for index in range(8)])
    correlations = np.corrcoef(draws)[np.triu_indices(8, 1)]
    # 28 correlations with standard error 0.01; five of them is exceeded once in 60,000 such tests
    assert np.abs(correlations).max() < 0.05


def test_torch_streams_repeat_and_differ() -> None:
    first, again, other = (Seeds(0).torch("rows", index) for index in (0, 0, 1))
    numbers = [torch.rand(4, dtype=torch.float64, generator=generator) for generator in (first, again, other)]
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


def test_no_stream_touches_the_global_state() -> None:
    before = torch.random.get_rng_state()
    torch.rand(4, generator=Seeds(0).torch("rows"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_negative_seed_is_refused_by_its_value() -> None:
    with pytest.raises(InputError, match="seed=-1 must be a non-negative integer"):
        Seeds(-1)
