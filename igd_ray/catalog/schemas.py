"""One explicit Arrow schema for each table of the catalog."""

from collections.abc import Mapping
from types import MappingProxyType

import pyarrow as pa

# A change of any schema below raises this number; a catalog of another version is refused, never guessed at.
SCHEMA_VERSION = 3

# The version before, of the same columns in files without seals: it is read, and written to as the new one.
UNSEALED_VERSION = 2


def _required(name: str, kind: pa.DataType) -> pa.Field:
    """Return a column without which a row could not be joined or counted: NULL is refused there."""
    return pa.field(name, kind, nullable=False)


def _list(kind: pa.DataType) -> pa.DataType:
    """Return the type of lists of `kind`, with the name of its child that a Parquet file gives back."""
    return pa.list_(pa.field("element", kind))


_TEXT, _INT, _LONG, _REAL, _FLAG = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_MOMENT = pa.timestamp("us", tz="UTC")

_COLUMNS: Mapping[str, list[pa.Field]] = {
    "runs": [
        _required("run_id", _TEXT),
        _required("verb", _TEXT),
        _required("created_at", _MOMENT),
        pa.field("model", _TEXT),
        pa.field("model_id", _TEXT),
        pa.field("dataset", _TEXT),
        pa.field("split", _TEXT),
        pa.field("n", _INT),
        pa.field("norm", _TEXT),
        pa.field("epsilon", _REAL),
        pa.field("seed", _LONG),
        pa.field("config", _TEXT),  # JSON
        pa.field("notes", _list(_TEXT)),  # what was not measured, remarks on splits
    ],
    "run_units": [
        _required("run_id", _TEXT),
        _required("unit_key", _TEXT),
        _required("kind", _TEXT),
        pa.field("defense", _TEXT),
        pa.field("attack", _TEXT),
        _required("reported", _FLAG),  # false: computed only as a source for other units
        pa.field("image_ids", _list(_TEXT)),
    ],
    "outcomes": [
        _required("unit_key", _TEXT),
        pa.field("model", _TEXT),
        pa.field("model_id", _TEXT),
        pa.field("dataset", _TEXT),
        _required("defense", _TEXT),
        pa.field("defense_id", _TEXT),
        pa.field("k", _INT),
        pa.field("sigma", _REAL),
        pa.field("tau", _REAL),
        pa.field("draws", _INT),
        pa.field("layer", _TEXT),
        pa.field("ranking_id", _TEXT),
        pa.field("defense_arguments", _TEXT),  # JSON
        _required("attack", _TEXT),
        pa.field("norm", _TEXT),
        pa.field("epsilon", _REAL),
        _required("image_id", _TEXT),
        pa.field("label", _INT),
        pa.field("clean_prediction", _INT),
        pa.field("adversarial_prediction", _INT),
        _required("status", _TEXT),  # robust, broken, misclassified, skipped, error
        pa.field("stage", _TEXT),  # the attack of an ensemble that broke it
        pa.field("distance", pa.float32()),
        pa.field("queries", _LONG),
        pa.field("forwards", _LONG),
        pa.field("backwards", _LONG),
        # Of the attack. Each point is judged with the seed that `igd verify` derives from the unit's key and its name.
        pa.field("seed", _LONG),
        pa.field("judge_draws", _INT),
        pa.field("broken_any", _FLAG),
        pa.field("broken_majority", _FLAG),
        pa.field("broken_all", _FLAG),
        pa.field("seconds", _REAL),
        pa.field("host", _TEXT),
        pa.field("attempt", _INT),
    ],
    "adversarials": [
        _required("unit_key", _TEXT),
        _required("image_id", _TEXT),
        _required("point", _TEXT),  # returned, highest-loss, last-misclassified
        _required("shape", _list(_INT)),
        _required("pixels", _list(pa.float32())),
    ],
    "noise": [
        _required("unit_key", _TEXT),
        pa.field("model", _TEXT),
        pa.field("dataset", _TEXT),
        _required("defense", _TEXT),
        pa.field("defense_id", _TEXT),
        _required("image_id", _TEXT),
        pa.field("label", _INT),
        _required("clean_correct", _FLAG),
        # How often the clean image was asked, and how often the answer was wrong; NULL unless it is right at first.
        pa.field("draws", _INT),
        pa.field("failures", _INT),
    ],
    "rankings": [
        _required("ranking_id", _TEXT),
        _required("method", _TEXT),
        pa.field("model", _TEXT),
        pa.field("model_id", _TEXT),
        pa.field("dataset", _TEXT),
        pa.field("layer", _TEXT),
        _required("class_id", _INT),
        pa.field("class_name", _TEXT),
        _required("neuron", _INT),
        _required("score", _REAL),
        _required("rank", _INT),  # 0 is the most important neuron of the class
        pa.field("probe_images", _INT),
        pa.field("details", _TEXT),  # JSON
    ],
    "arrays": [
        _required("unit_key", _TEXT),
        _required("name", _TEXT),
        _required("dtype", _TEXT),
        _required("shape", _list(_LONG)),
        _required("data", pa.binary()),
    ],
    "searches": [
        _required("search_id", _TEXT),
        pa.field("model", _TEXT),
        pa.field("model_id", _TEXT),
        pa.field("dataset", _TEXT),
        pa.field("split", _TEXT),
        pa.field("method", _TEXT),
        pa.field("layer", _TEXT),
        pa.field("ranking_id", _TEXT),
        pa.field("n", _INT),
        pa.field("tolerance", _REAL),
        pa.field("k", _INT),
        pa.field("class_k", _list(_INT)),  # one for each class, in place of k
        pa.field("sigma", _REAL),
        pa.field("tau", _REAL),
        pa.field("draws", _INT),
        pa.field("clean_accuracy", _REAL),
        pa.field("base_clean_accuracy", _REAL),
        pa.field("details", _TEXT),  # JSON
    ],
    "trials": [
        _required("search_id", _TEXT),
        _required("trial", _INT),
        pa.field("model", _TEXT),
        pa.field("dataset", _TEXT),
        pa.field("method", _TEXT),
        pa.field("ranking_id", _TEXT),
        pa.field("layer", _TEXT),
        pa.field("k", _INT),
        pa.field("class_k", _list(_INT)),  # one for each class, in place of k
        pa.field("sigma", _REAL),
        pa.field("tau", _REAL),
        pa.field("draws", _INT),
        pa.field("n", _INT),
        pa.field("clean_accuracy", _REAL),
        pa.field("base_clean_accuracy", _REAL),
        pa.field("tolerance", _REAL),
        pa.field("feasible", _FLAG),
        # Clean accuracy minus the base model's on the same images, with its 95 % interval.
        pa.field("difference", _REAL),
        pa.field("difference_low", _REAL),
        pa.field("difference_high", _REAL),
        # Numbers of images for each class: all, right without the defense, right only with it, right only without it.
        pa.field("class_images", _list(_INT)),
        pa.field("class_base_correct", _list(_INT)),
        pa.field("class_gained", _list(_INT)),
        pa.field("class_lost", _list(_INT)),
        pa.field("seconds", _REAL),
    ],
    "refinements": [
        _required("search_id", _TEXT),
        _required("trial", _INT),
        pa.field("run_id", _TEXT),
        pa.field("attacks", _list(_TEXT)),
        pa.field("n", _INT),
        pa.field("robust_accuracy", _REAL),  # the share of images that every attack left robust
    ],
    "checks": [
        pa.field("unit_key", _TEXT),
        pa.field("run_id", _TEXT),
        pa.field("model", _TEXT),
        pa.field("defense", _TEXT),
        pa.field("attack", _TEXT),
        _required("check", _TEXT),
        _required("severity", _TEXT),  # info, warning, error
        pa.field("value", _REAL),
        _required("message", _TEXT),
    ],
    "failures": [
        _required("unit_key", _TEXT),
        pa.field("kind", _TEXT),
        _required("attempt", _INT),
        _required("error", _TEXT),
        pa.field("host", _TEXT),
        pa.field("created_at", _MOMENT),
    ],
    "attempts": [
        _required("unit_key", _TEXT),
        pa.field("kind", _TEXT),
        _required("attempt", _INT),
        _required("session", _TEXT),  # one of a driver's executors
        pa.field("worker", _INT),  # its process
        pa.field("host", _TEXT),
        _required("started_at", _MOMENT),
        pa.field("ended_at", _MOMENT),
        pa.field("outcome", _TEXT),  # done, error, crashed, timeout, lost, split; NULL while it runs
        pa.field("error", _TEXT),
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
        pa.field("row_group", _INT),  # NULL for a result without rows
    ],
}

SCHEMAS: Mapping[str, pa.Schema] = MappingProxyType(
    {
        table: pa.schema(columns, metadata={"igd_schema": f"{table}/{SCHEMA_VERSION}"})
        for table, columns in _COLUMNS.items()
    }
)
