"""A composed configuration becomes the dataclass that it describes, or one line that names the key."""

from dataclasses import dataclass, field

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lab.core.errors import ConfigError
from lab.core.hydra_schema import refuse_taken_as_bool, register_schema, to_typed, with_overrides


@dataclass(kw_only=True, slots=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"inner.size={self.size}: give 1 or more")


@dataclass(kw_only=True, slots=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)


@dataclass(kw_only=True, slots=True)
class Switches:
    outer: bool = True
    parts: dict[str, bool] = field(default_factory=dict)


def composed(**values: object) -> object:
    return OmegaConf.merge(OmegaConf.structured(Outer), values)


def test_a_configuration_becomes_its_dataclass() -> None:
    assert to_typed(composed(name="a", inner={"size": 3}), Outer) == Outer(name="a", inner=Inner(size=3))


def test_the_checks_of_inner_classes_run() -> None:
    with pytest.raises(ConfigError, match=r"inner\.size=0: give 1 or more"):
        to_typed(composed(name="a", inner={"size": 0}), Outer)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^name must be given; write name=VALUE"):
        to_typed(OmegaConf.structured(Outer), Outer)


def test_a_configuration_without_its_schema_is_refused() -> None:
    with pytest.raises(ConfigError, match="list the schema of Outer first"):
        to_typed(OmegaConf.create({"name": "a"}), Outer)


def test_a_schema_is_found_under_its_name() -> None:
    register_schema("outer_of_this_test", Outer, group="group_of_this_test")
    store = ConfigStore.instance()
    node = store.load("group_of_this_test/outer_of_this_test.yaml").node
    assert OmegaConf.get_type(node) is Outer


def test_a_key_that_was_added_by_force_is_named() -> None:
    config = composed(name="a")
    OmegaConf.update(config, "inner.sizes", 3, force_add=True)
    with pytest.raises(ConfigError, match=r"inner\.sizes: unknown key; did you mean size"):
        to_typed(config, Outer)


@pytest.mark.parametrize("value", [0, 1, 3, "1", "yes", "off"])
def test_what_is_only_taken_as_true_or_false_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^curves\.a\.outer={value} must be true or false; write curves\.a\.outer="):
        with_overrides(Switches(), {"outer": value}, label="curves.a")
    with pytest.raises(ConfigError, match=rf"^a\.parts\.b\.c={value} must be"):
        with_overrides(Switches(), {"parts": {"b.c": value}}, label="a")


@pytest.mark.parametrize("value", [True, False, "true", "False"])
def test_true_and_false_are_taken(value: object) -> None:
    changed = with_overrides(Switches(), {"outer": value, "parts": {"b": value}}, label="a")
    assert changed.outer == changed.parts["b"] == (str(value).lower() == "true")


def test_a_reference_to_another_key_and_a_number_of_a_key_without_type_are_taken() -> None:
    given = {"outer": "${parts.b}", "parts": {"b": False}}
    refuse_taken_as_bool(given, OmegaConf.merge(OmegaConf.structured(Switches), given), "a")
    refuse_taken_as_bool({"b": 3}, OmegaConf.create({"b": 3}), "a")
