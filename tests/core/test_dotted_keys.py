"""Nested keys and dotted ones say the same."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lab.core.dotted_keys import by_dotted_key

NAMES = st.text(alphabet="abc_", min_size=1, max_size=3)
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
TREES = st.dictionaries(
    NAMES, st.recursive(VALUES, lambda parts: st.dictionaries(NAMES, parts, max_size=3), max_leaves=8), max_size=3
)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *above, last = key.split(".")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return tree


@given(TREES)
def test_nothing_is_lost_and_nothing_stays_nested(tree: dict[str, Any]) -> None:
    flat = by_dotted_key(tree)
    assert nested(flat) == tree
    assert not any(isinstance(value, dict) and value for value in flat.values())


def test_lists_are_values_and_keys_keep_their_order() -> None:
    tree = {"student": {"layers": [{"a": 1}], "mixer": {"mamba2": {}}}, "seed": 0}
    expected = [("student.layers", [{"a": 1}]), ("student.mixer.mamba2", {}), ("seed", 0)]
    assert list(by_dotted_key(tree).items()) == expected
    assert by_dotted_key({}) == {}
    assert by_dotted_key({1: {2: "a"}}) == {"1.2": "a"}  # type: ignore[dict-item]
