"""Changes results on disk and seals them anew, as nobody but igd-ray itself would write them."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.sealed import sealed_parquet

Row = dict[str, object]


def rewrite(catalog: Path, table: str, key: str, change: Callable[[list[Row]], None]) -> None:
    """Have `change` change the rows of a result."""
    name = f"{table}/{key}.parquet"
    rows = pq.read_table(catalog / name).to_pylist()
    change(rows)
    changed = pa.Table.from_pylist(rows, schema=SCHEMAS[table])
    (catalog / name).write_bytes(sealed_parquet(name, [changed], SCHEMAS[table]))
