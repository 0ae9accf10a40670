"""A composed configuration becomes the dataclass that it describes, or one line that names the key."""

from dataclasses import dataclass, field

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lab.core.errors import ConfigError
from lab.core.hydra_schema import register_schema, to_typed


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
