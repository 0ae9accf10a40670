"""Lists of data sets: what each has of an epoch is what the list says, and none vanishes."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab.core.data.conversations import Conversations, ConversationsConfig
from lab.core.data.prompt_format import PromptFormat
from lab.core.errors import InputError
from reference.characters import Characters


def write(path: Path, content: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(record) for record in content))


def opened(folder: Path, *, share: float = 0.0) -> Conversations:
    config = ConversationsConfig(path=folder / "meta.json", held_out_share=share)
    return Conversations(config, split="train", tokenizer=Characters(), prompt_format=PromptFormat())


def test_shares_of_data_sets_are_those_of_all_their_files(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    content = [
        {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": "b"}]} for n in range(30)
    ]
    for number in range(10):
        write(tmp_path / "many" / f"{number}.jsonl", content[number : number + 1])
    write(tmp_path / "big.jsonl", content[10:])

    def counts(many: dict[str, Any], big: dict[str, Any]) -> list[int]:
        meta = {"many": {"annotation": "many", "root": None, **many}, "big": {"annotation": "big.jsonl", **big}}
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        source = opened(tmp_path)
        in_big = sum(Path(source.place(index).file).stem == "big" for index in range(len(source)))
        return [len(source) - in_big, in_big]

    assert counts({"repeat_time": 1.4}, {"repeat_time": None}) == [14, 20]
    assert counts({"repeat_time": 0.5}, {}) == [5, 20]
    assert counts({"weight": 1}, {"weight": 3}) == [8, 22]
    with pytest.raises(InputError, match=r"many: weight=1 is less than one sample of an epoch; raise it"):
        counts({"weight": 1}, {"weight": 1000})
    with pytest.raises(InputError, match=r"many: repeat_time=0\.05 reads none of its 10 samples"):
        counts({"repeat_time": 0.05}, {})


@pytest.mark.parametrize(
    ("content", "double"),
    [
        ('{"a": {"annotation": "a.jsonl"}, "a": {"annotation": "b.jsonl"}}', "a"),
        ('{"a": {"annotation": "a.jsonl",\n"repeat_time": 1, "repeat_time": 2}}', "repeat_time"),
    ],
)
def test_two_data_sets_of_one_name_are_refused(content: str, double: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(InputError, match=rf"meta\.json has the key {double} twice; rename"):
        opened(tmp_path)


def test_a_data_set_that_is_held_out_as_a_whole_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        turns = [{"from": "human", "value": f"{name}?"}, {"from": "gpt", "value": "b"}]
        write(tmp_path / f"{name}.jsonl", [{"conversations": turns}])
    (tmp_path / "meta.json").write_text(json.dumps({name: {"annotation": f"{name}.jsonl"} for name in "ab"}))
    with pytest.raises(InputError, match=r"a: all that is read of its 1 samples is held out; lower held_out_share=0"):
        opened(tmp_path, share=0.999999)
