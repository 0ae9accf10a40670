"""A key that holds a list takes one value too, and refuses what is of another kind."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from lab.core.errors import ConfigError
from lab.core.list_keys import settle_lists


@dataclass
class Keys:
    counts: Any = None
    shares: Any = None
    names: Any = field(default_factory=list)

    def __post_init__(self) -> None:
        settle_lists(self, counts=int, shares=float, names=str)


def test_one_value_is_a_list_of_one() -> None:
    assert Keys(counts=3, shares=2, names="a") == Keys(counts=[3], shares=[2.0], names=("a",))
    assert [type(share) for share in Keys(shares=[1, 0.5]).shares] == [float, float]
    assert Keys().counts is None


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"counts": "a"}, "counts=a: give whole numbers, one or a list as in [1,2]"),
        ({"counts": [1, 2.5]}, "counts=[1, 2.5]: give whole numbers, one or a list as in [1,2]"),
        ({"counts": True}, "counts=True: give whole numbers, one or a list as in [1,2]"),
        ({"shares": ["0.5"]}, "shares=[0.5]: give numbers, one or a list as in [0.5,2]"),
        ({"names": 3}, "names=3: give names, one or a list as in [NAME,NAME]"),
        ({"names": None}, "names=None: give names, one or a list as in [NAME,NAME]"),
        ({"names": {"a": 1}}, "names={'a': 1}: give names, one or a list as in [NAME,NAME]"),
    ],
)
def test_another_kind_is_refused_with_what_to_write(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Keys(**keys)
    assert str(caught.value) == says
