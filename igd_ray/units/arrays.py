"""Arrays in the catalog: partial results and caches, exact to the bit."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igd_ray.catalog import Catalog

TABLE = "arrays"


def array_rows(key: str, arrays: dict[str, Tensor]) -> list[dict[str, object]]:
    """Return the rows that keep `arrays` under `key`."""
    rows: list[dict[str, object]] = []
    for name, tensor in arrays.items():
        values = tensor.detach().cpu().contiguous().numpy()
        rows.append(
            {
                "unit_key": key,
                "name": name,
                "dtype": values.dtype.str,
                "shape": list(values.shape),
                "data": values.tobytes(),
            }
        )
    return rows


def read_arrays(catalog: Catalog, key: str) -> dict[str, Tensor]:
    """Return the arrays kept under `key`.

    Raises:
        InputError: if they are not committed, or the file is half-written.
    """
    return arrays_of(catalog.read(TABLE, key).to_pylist())


def arrays_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the arrays in rows of `array_rows`."""
    arrays = {}
    for row in rows:
        # The copy makes the array writable and its own.
        values = np.frombuffer(row["data"], dtype=np.dtype(row["dtype"])).reshape(row["shape"]).copy()
        arrays[row["name"]] = torch.from_numpy(values)
    return arrays
