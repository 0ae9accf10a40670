"""A table of implementations in one line, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.products.choice import CELLS, described, from_words, only
from lab.core.products.implementations import IMPLEMENTATIONS, NATIVE, ONEDNN, TORCH, Implementation


def test_a_table_in_one_line() -> None:
    assert described(only(TORCH)) == "torch everywhere"
    assert described(only(ONEDNN)) == "forward: onednn; input gradient: onednn; weight gradient: onednn"
    assert described(only(NATIVE)) == (
        "forward: native for 1 to 16 rows, torch for 17 rows or more; input gradient: torch; weight gradient: torch"
    )


@pytest.mark.parametrize(
    "words", ["", "torch", "forward: torch", "forward: mkl; input gradient: torch", "a; b, c for d"]
)
def test_words_that_describe_no_table(words: str) -> None:
    assert from_words(words) is None


@given(st.lists(st.sampled_from(list(IMPLEMENTATIONS.values())), min_size=len(CELLS), max_size=len(CELLS)))
def test_a_table_comes_back_from_its_words(names: list[Implementation]) -> None:
    table = {cell: each if cell.may_use(each) else TORCH for cell, each in zip(CELLS, names, strict=True)}
    assert from_words(described(table)) == table
