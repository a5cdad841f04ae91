"""Results on standard output: a table for people, JSON for scripts."""

import json
import sys
from typing import TYPE_CHECKING

from igd_ray.report.tables import print_table

if TYPE_CHECKING:
    import pyarrow as pa

    from igd_ray.arrow import Answer


def show(table: "pa.Table | Answer", *, as_json: bool, title: str | None = None) -> None:
    """Print `table`, as JSON if asked."""
    if as_json:
        from igd_ray.arrow import Answer, answer_of

        answer = table if isinstance(table, Answer) else answer_of(table)
        json.dump(answer.dictionaries(), sys.stdout, default=str, indent=2)
        print()
    else:
        print_table(table, title=title)
