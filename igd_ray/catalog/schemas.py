"""One explicit schema for each table of the catalog, in SQL and in Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from igd_ray.arrow import pa

# A change of any schema below raises this number; a catalog of another version is refused, never guessed at.
SCHEMA_VERSION = 3

# The version before, of the same columns in files without seals: it is read, and written to as the new one.
UNSEALED_VERSION = 2


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: of the column.
        kind: its type, as SQL calls it.
        is_required: whether a row could not be joined or counted without it: NULL is refused there.
    """

    name: str
    kind: str
    is_required: bool = False


_TEXT, _INT, _LONG, _REAL, _SINGLE, _FLAG = "VARCHAR", "INTEGER", "BIGINT", "DOUBLE", "FLOAT", "BOOLEAN"
_MOMENT, _BYTES, _LIST = "TIMESTAMP WITH TIME ZONE", "BLOB", "[]"


def _required(name: str, kind: str) -> Column:
    return Column(name, kind, True)


COLUMNS: Mapping[str, Sequence[Column]] = {
    "runs": [
        _required("run_id", _TEXT),
        _required("verb", _TEXT),
        _required("created_at", _MOMENT),
        Column("model", _TEXT),
        Column("model_id", _TEXT),
        Column("dataset", _TEXT),
        Column("split", _TEXT),
        Column("n", _INT),
        Column("norm", _TEXT),
        Column("epsilon", _REAL),
        Column("seed", _LONG),
        Column("config", _TEXT),  # JSON
        Column("notes", _TEXT + _LIST),  # what was not measured, remarks on splits
    ],
    "run_units": [
        _required("run_id", _TEXT),
        _required("unit_key", _TEXT),
        _required("kind", _TEXT),
        Column("defense", _TEXT),
        Column("attack", _TEXT),
        _required("reported", _FLAG),  # false: computed only as a source for other units
        Column("image_ids", _TEXT + _LIST),
    ],
    "outcomes": [
        _required("unit_key", _TEXT),
        Column("model", _TEXT),
        Column("model_id", _TEXT),
        Column("dataset", _TEXT),
        _required("defense", _TEXT),
        Column("defense_id", _TEXT),
        Column("k", _INT),
        Column("sigma", _REAL),
        Column("tau", _REAL),
        Column("draws", _INT),
        Column("layer", _TEXT),
        Column("ranking_id", _TEXT),
        Column("defense_arguments", _TEXT),  # JSON
        _required("attack", _TEXT),
        Column("norm", _TEXT),
        Column("epsilon", _REAL),
        _required("image_id", _TEXT),
        Column("label", _INT),
        Column("clean_prediction", _INT),
        Column("adversarial_prediction", _INT),
        _required("status", _TEXT),  # robust, broken, misclassified, skipped, error
        Column("stage", _TEXT),  # the attack of an ensemble that broke it
        Column("distance", _SINGLE),
        Column("queries", _LONG),
        Column("forwards", _LONG),
        Column("backwards", _LONG),
        # Of the attack. Each point is judged with the seed that `igd verify` derives from the unit's key and its name.
        Column("seed", _LONG),
        Column("judge_draws", _INT),
        Column("broken_any", _FLAG),
        Column("broken_majority", _FLAG),
        Column("broken_all", _FLAG),
        Column("seconds", _REAL),
        Column("host", _TEXT),
        Column("attempt", _INT),
    ],
    "adversarials": [
        _required("unit_key", _TEXT),
        _required("image_id", _TEXT),
        _required("point", _TEXT),  # returned, highest-loss, last-misclassified
        _required("shape", _INT + _LIST),
        _required("pixels", _SINGLE + _LIST),
    ],
    "noise": [
        _required("unit_key", _TEXT),
        Column("model", _TEXT),
        Column("dataset", _TEXT),
        _required("defense", _TEXT),
        Column("defense_id", _TEXT),
        _required("image_id", _TEXT),
        Column("label", _INT),
        _required("clean_correct", _FLAG),
        # How often the clean image was asked, and how often the answer was wrong; NULL unless it is right at first.
        Column("draws", _INT),
        Column("failures", _INT),
    ],
    "rankings": [
        _required("ranking_id", _TEXT),
        _required("method", _TEXT),
        Column("model", _TEXT),
        Column("model_id", _TEXT),
        Column("dataset", _TEXT),
        Column("layer", _TEXT),
        _required("class_id", _INT),
        Column("class_name", _TEXT),
        _required("neuron", _INT),
        _required("score", _REAL),
        _required("rank", _INT),  # 0 is the most important neuron of the class
        Column("probe_images", _INT),
        Column("details", _TEXT),  # JSON
    ],
    "arrays": [
        _required("unit_key", _TEXT),
        _required("name", _TEXT),
        _required("dtype", _TEXT),
        _required("shape", _LONG + _LIST),
        _required("data", _BYTES),
    ],
    "searches": [
        _required("search_id", _TEXT),
        Column("model", _TEXT),
        Column("model_id", _TEXT),
        Column("dataset", _TEXT),
        Column("split", _TEXT),
        Column("method", _TEXT),
        Column("layer", _TEXT),
        Column("ranking_id", _TEXT),
        Column("n", _INT),
        Column("tolerance", _REAL),
        Column("k", _INT),
        Column("class_k", _INT + _LIST),  # one for each class, in place of k
        Column("sigma", _REAL),
        Column("tau", _REAL),
        Column("draws", _INT),
        Column("clean_accuracy", _REAL),
        Column("base_clean_accuracy", _REAL),
        Column("details", _TEXT),  # JSON
    ],
    "trials": [
        _required("search_id", _TEXT),
        _required("trial", _INT),
        Column("model", _TEXT),
        Column("dataset", _TEXT),
        Column("method", _TEXT),
        Column("ranking_id", _TEXT),
        Column("layer", _TEXT),
        Column("k", _INT),
        Column("class_k", _INT + _LIST),  # one for each class, in place of k
        Column("sigma", _REAL),
        Column("tau", _REAL),
        Column("draws", _INT),
        Column("n", _INT),
        Column("clean_accuracy", _REAL),
        Column("base_clean_accuracy", _REAL),
        Column("tolerance", _REAL),
        Column("feasible", _FLAG),
        # Clean accuracy minus the base model's on the same images, with its 95 % interval.
        Column("difference", _REAL),
        Column("difference_low", _REAL),
        Column("difference_high", _REAL),
        # Numbers of images for each class: all, right without the defense, right only with it, right only without it.
        Column("class_images", _INT + _LIST),
        Column("class_base_correct", _INT + _LIST),
        Column("class_gained", _INT + _LIST),
        Column("class_lost", _INT + _LIST),
        Column("seconds", _REAL),
    ],
    "refinements": [
        _required("search_id", _TEXT),
        _required("trial", _INT),
        Column("run_id", _TEXT),
        Column("attacks", _TEXT + _LIST),
        Column("n", _INT),
        Column("robust_accuracy", _REAL),  # the share of images that every attack left robust
    ],
    "checks": [
        Column("unit_key", _TEXT),
        Column("run_id", _TEXT),
        Column("model", _TEXT),
        Column("defense", _TEXT),
        Column("attack", _TEXT),
        _required("check", _TEXT),
        _required("severity", _TEXT),  # info, warning, error
        Column("value", _REAL),
        _required("message", _TEXT),
    ],
    # What `igd analyze` measures; a view for each analysis says what its rows mean.
    "measurements": [
        _required("unit_key", _TEXT),
        _required("analysis", _TEXT),
        Column("model", _TEXT),
        Column("model_id", _TEXT),
        Column("dataset", _TEXT),
        Column("defense", _TEXT),
        Column("attack", _TEXT),
        Column("image_id", _TEXT),
        Column("label", _INT),
        Column("broken", _FLAG),  # whether the attack changed the prediction
        _required("quantity", _TEXT),
        Column("x", _REAL),  # where on a plane, or at which repetition
        Column("y", _REAL),
        Column("value", _REAL),  # NULL where it is not defined
    ],
    "failures": [
        _required("unit_key", _TEXT),
        Column("kind", _TEXT),
        _required("attempt", _INT),
        _required("error", _TEXT),
        Column("host", _TEXT),
        Column("created_at", _MOMENT),
    ],
    "attempts": [
        _required("unit_key", _TEXT),
        Column("kind", _TEXT),
        _required("attempt", _INT),
        _required("session", _TEXT),  # one of a driver's executors
        Column("worker", _INT),  # its process
        Column("host", _TEXT),
        _required("started_at", _MOMENT),
        Column("ended_at", _MOMENT),
        Column("outcome", _TEXT),  # done, error, crashed, timeout, lost, split; NULL while it runs
        Column("error", _TEXT),
        _required("seen_at", _MOMENT),  # when the driver last wrote this
    ],
    "splits": [
        _required("unit_key", _TEXT),
        _required("part_key", _TEXT),
        _required("images", _INT),
    ],
    # What `igd compact` merged: a file of a key that stands here counts no more, and a merged file only then.
    "compacted": [
        _required("table_name", _TEXT),
        _required("key", _TEXT),
        _required("file", _TEXT),
        Column("row_group", _INT),  # NULL for a result without rows
    ],
}


class _Schemas(Mapping[str, "pa.Schema"]):
    """The Arrow schema of each table, made when one is first asked for."""

    @cached_property
    def _made(self) -> dict[str, pa.Schema]:
        return {
            table: pa.schema(
                [pa.field(each.name, _arrow_type(each.kind), nullable=not each.is_required) for each in columns],
                metadata={"igd_schema": f"{table}/{SCHEMA_VERSION}"},
            )
            for table, columns in COLUMNS.items()
        }

    def __getitem__(self, table: str) -> pa.Schema:
        return self._made[table]

    def __contains__(self, table: object) -> bool:
        return table in COLUMNS

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


def _arrow_type(kind: str) -> pa.DataType:
    if kind.endswith(_LIST):
        # With the name of its child that a Parquet file gives back.
        return pa.list_(pa.field("element", _arrow_type(kind.removesuffix(_LIST))))
    return {
        _TEXT: pa.string(),
        _INT: pa.int32(),
        _LONG: pa.int64(),
        _REAL: pa.float64(),
        _SINGLE: pa.float32(),
        _FLAG: pa.bool_(),
        _MOMENT: pa.timestamp("us", tz="UTC"),
        _BYTES: pa.binary(),
    }[kind]


SCHEMAS: Mapping[str, pa.Schema] = _Schemas()
