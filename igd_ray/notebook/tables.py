"""What an evaluation returns to a program: tables that a notebook shows."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from igd_ray.protocol import NONE, attack_order
from igd_ray.report.results import Results, accuracy_rows, accuracy_tables
from igd_ray.report.sentences import remarks
from igd_ray.report.tables import shown, table_text

# Of a row of `accuracy_rows`, what is not a cell of a table: numbers by attack.
_BY_ATTACK = ("attacked", "broken", "audit_attacked", "newly_broken")

_OF_AN_ATTACK = ("defense", "attack", "n", "attacked", "broken", "robust_accuracy", "low", "high")


@dataclass(frozen=True)
class ResultTable(Sequence[Mapping[str, Any]]):
    """Rows, a mapping each, with equal keys; shown as a table by `print` and in notebooks.

    Attributes:
        title: stands above.
        rows: accuracies are fractions in [0, 1]; None is what was not measured.
    """

    title: str
    rows: Sequence[Mapping[str, Any]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: Any) -> Any:
        return self.rows[position]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    @property
    def arrow(self) -> pa.Table:
        """The rows as an Arrow table, which has `to_pandas()`."""
        return pa.Table.from_pylist([dict(row) for row in self.rows])

    def __str__(self) -> str:
        return table_text(self.rows, title=self.title)

    def _repr_html_(self) -> str:
        names = list(self.rows[0]) if self.rows else []
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(shown(row[name]))}</td>' for name in names)}</tr>" for row in self.rows
        )
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; `print` and notebooks show what `igd evaluate` prints.

    Attributes:
        run_id: the run's id in the catalog, for `igd report --run-id` and SQL.
        catalog: the folder of everything that was computed.
        worst_case: one row a defense, `none` first: clean accuracy, each attack's, the worst case with its interval,
            gain over `none` and claim; after an audit also what it left.
        accuracy: one row a defense and attack: images attacked and broken, and the accuracy with its interval.
        outcomes: one row an image, defense and attack, as the view `outcomes` has them.
        remarks: what stands below the tables: falls, the audit, noise, checks; a sentence each.
    """

    run_id: str
    catalog: str
    worst_case: ResultTable
    accuracy: ResultTable
    outcomes: pa.Table = field(repr=False)
    remarks: tuple[str, ...]
    _printed: tuple[ResultTable, ...] = field(repr=False)

    @classmethod
    def of(cls, results: Results, catalog: str, outcomes: pa.Table) -> "Evaluation":
        """Return the tables of a run that was read."""
        rows = [
            {name: value for name, value in row.items() if name not in _BY_ATTACK} for row in accuracy_rows(results)
        ]
        accuracies = sorted(results.accuracies, key=_place)
        by_attack = [{name: row[name] for name in _OF_AN_ATTACK} for row in accuracies]
        printed = tuple(ResultTable(table.title, table.rows) for table in accuracy_tables(results))
        return cls(
            results.run_id,
            catalog,
            ResultTable(f"Run {results.run_id}, worst case", rows),
            ResultTable(f"Run {results.run_id}, accuracy per attack", by_attack),
            outcomes,
            tuple(remarks(results)),
            printed,
        )

    def __str__(self) -> str:
        return "\n".join([*map(str, self._printed), *self.remarks])

    def _repr_html_(self) -> str:
        below = "".join(f"<p>{html.escape(remark)}</p>" for remark in self.remarks)
        return "".join(table._repr_html_() for table in self._printed) + below


def _place(row: Mapping[str, Any]) -> tuple[bool, str, tuple[int, int, str]]:
    return row["defense"] != NONE, row["defense"], attack_order(row["attack"])
