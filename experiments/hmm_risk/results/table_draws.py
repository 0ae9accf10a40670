"""What the table of a sweep was made of. Its configuration may ask for more: of an extension that has not ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from lab.core.runs.parquet import read_table

_COLUMNS = ("curve", "problem", "replicate")


class _Draws(NamedTuple):
    """Draws of the HMM, 1 where there is one HMM; and of the rows for each, 0 in theory alone."""

    problems: int
    replicates: int


@dataclass(frozen=True, slots=True)
class TableDraws:
    """Draws of which a table has rows, by the name of the curve in the configuration."""

    of_curves: Mapping[str, _Draws]

    @property
    def replicates(self) -> str:
        """Draws of the rows, in words; of several curves a range."""
        return _range(draws.replicates for draws in self.of_curves.values())

    @property
    def problems(self) -> str:
        """Draws of the HMM, in words; of several curves a range."""
        return _range(draws.problems for draws in self.of_curves.values())

    @property
    def independent(self) -> int:
        """Draws between which a standard error is taken: of the HMM, or of the rows if there is one HMM.

        Of several curves those of the one with the fewest.
        """
        counts = (draws.problems if draws.problems > 1 else draws.replicates for draws in self.of_curves.values())
        return min(counts, default=0)

    def are_those_of(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration asks for as many, in each curve."""
        curves = config.get("curves") or {}
        return all(
            (curves.get(name) or {}).get(key, config.get(key, count)) == count
            for name, draws in self.of_curves.items()
            for key, count in draws._asdict().items()
        )

    def __str__(self) -> str:
        rows = f"{self.replicates} draws of the rows"
        return rows if self.problems == "1" else f"{rows} for each of {self.problems} draws of the HMM"


def table_draws(directory: Path) -> TableDraws:
    """Count the draws in table.parquet of a run.

    Raises:
        RunError: if it is not there, or damaged.
    """
    # whether the file can be read is asked first
    read_table(directory, columns=["problem"])
    with (directory / "table.parquet").open("rb") as file:
        there = pq.read_schema(file).names
    # theory alone has no draws of rows
    columns = [name for name in _COLUMNS if name in there]
    table = read_table(directory, columns=columns)
    counts = table.group_by("curve").aggregate([(name, "count_distinct") for name in columns[1:]]).to_pylist()
    return TableDraws(
        {row["curve"]: _Draws(row["problem_count_distinct"], row.get("replicate_count_distinct", 0)) for row in counts}
    )


def _range(counts: Iterable[int]) -> str:
    different = sorted(set(counts))
    return " to ".join(map(str, dict.fromkeys([different[0], different[-1]]))) if different else "0"
