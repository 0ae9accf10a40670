"""The registry of data sources, and the schema of the configuration group `data`.

Every file in core/data or experiments/distill/tasks that defines `SOURCE` is a source; a YAML file in conf/data selects
it. Nothing else lists the sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from lab.core.data.bad_samples import OnBadSample
from lab.core.data.contents import Content
from lab.core.data.source_spec import SourceSpec
from lab.core.errors import ConfigError
from lab.core.specs import specs_in

_PACKAGES = ("lab.core.data", "lab.experiments.distill.tasks")


@cache
def data_sources() -> dict[str, SourceSpec]:
    """Every data source by its kind."""
    return dict(sorted(specs_in(_PACKAGES, "SOURCE", SourceSpec, key="kind").items()))


@dataclass(kw_only=True)
class DataSources:
    """One source of samples: it has a field for each source, exactly one of which is not None."""

    on_bad_sample: OnBadSample | None = None
    """What is done about a sample that cannot be used: skip (it is left out, counted, and listed in the run's
    bad_samples.jsonl), or refuse (it ends the run); null: skip for files of the user, refuse for a task that ships."""

    def __post_init__(self) -> None:
        given = self._given()
        if len(given) != 1:
            fix = f"choose data={' or '.join(given or data_sources())}"
            raise ConfigError(f"data must have exactly one source but has {', '.join(given) or 'none'}; {fix}")

    def _given(self) -> list[str]:
        kinds = [field.name for field in fields(self) if field.name in data_sources()]
        return [kind for kind in kinds if getattr(self, kind) is not None]

    @property
    def source(self) -> SourceSpec:
        """The selected source."""
        return data_sources()[self._given()[0]]

    @property
    def policy(self) -> OnBadSample:
        """What is done about a sample that cannot be used."""
        default = OnBadSample.skip if self.source.task is None else OnBadSample.refuse
        return self.on_bad_sample or default

    def refuse_missing(self) -> None:
        """Refuse files that do not exist; none is read.

        Raises:
            InputError: naming the file.
        """
        self.source.refuse_missing(self.options)

    def contents(self) -> Mapping[str, Content]:
        """What the files hold from which the samples are made; see `SourceSpec.contents`.

        Raises:
            InputError: naming the file.
        """
        return self.source.contents(self.options)

    @property
    def options(self) -> Any:
        """The options of that source, an object of `source.options`."""
        return getattr(self, self._given()[0])


if TYPE_CHECKING:

    class DataConfig(DataSources):
        """The schema of the group `data`: a field `KIND: OPTIONS | None = None` for each source."""

        def __init__(self, **options: Any) -> None: ...

else:
    DataConfig = make_dataclass(
        "DataConfig",
        [(spec.kind, spec.options | None, None) for spec in data_sources().values()],
        bases=(DataSources,),
        namespace={"__module__": __name__, "__doc__": DataSources.__doc__},
        kw_only=True,
    )
