"""Reading tables back, for tests of what a run has written."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, null as None."""
    return pq.read_table(path).to_pylist()
