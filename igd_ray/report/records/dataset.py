"""A run as a data set of the Hugging Face hub: verdicts and points as Parquet, and a card that says what they are."""

import io
import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from igd_ray.report.records.images import Kept, Points, png_of

# Places in the folder, and what the card calls them.
VERDICTS, POINTS, CARD = "data/verdicts.parquet", "data/points", "README.md"

INTRODUCTION = """
This data set was written by `igd export --to hf` of igd-ray. `verdicts` has a row for each image, defense and attack;
what was not measured is null.{points} License, authors and citation are for you to fill in.

"""
OF_POINTS = """
`points` has a row for each adversarial point that the run kept: `image` shows it with 8 bits, `pixels` are its
exact values in [0, 1], to be brought into `shape`; `label` is the true class, `status` what the run says of the image.
"""


def dataset_card(card: str, *, name: str, has_points: bool) -> str:
    """Return the card of the data set, whose head names its files for the hub's viewer and for `load_dataset`.

    Args:
        card: the run's evaluation card.
        name: of the data set, for people.
        has_points: whether the folder has any.
    """
    configs = [{"config_name": "verdicts", "data_files": VERDICTS, "default": True}]
    if has_points:
        configs.append({"config_name": "points", "data_files": f"{POINTS}/*.parquet"})
    head = {"pretty_name": name, "tags": ["adversarial-robustness", "igd-ray"], "configs": configs}
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n{INTRODUCTION.format(points=OF_POINTS if has_points else '')}{card}"


def parquet_of(table: pa.Table) -> bytes:
    """Return `table` as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def points_table(kept: Kept, points: Points, class_names: Mapping[int, str]) -> pa.Table:
    """Return points as a table whose metadata tell `datasets` which columns are images and classes.

    Args:
        kept: which points.
        points: with at least one image.
        class_names: by their numbers; used where every number from 0 to the highest label has one.
    """
    rows = len(points.ids)
    pictures = [{"bytes": png_of(pixels), "path": None} for pixels in points.pixels]
    columns = {
        "image": pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array(points.labels, pa.int64()),
        "image_id": pa.array(points.ids),
        "defense": pa.array([kept.defense] * rows),
        "attack": pa.array([kept.attack] * rows),
        "point": pa.array([kept.point] * rows),
        "status": pa.array(points.statuses),
        "shape": pa.array([list(kept.shape)] * rows, pa.list_(pa.int64())),
        "pixels": pa.array(list(points.pixels.reshape(rows, -1)), pa.list_(pa.float32())),
    }
    features: dict[str, object] = {
        name: {"dtype": "string", "_type": "Value"} for name in ("image_id", "defense", "attack", "point", "status")
    }
    features |= {
        "image": {"_type": "Image"},
        "label": _label(points, class_names),
        "shape": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "Sequence"},
        "pixels": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
    }
    ordered = {name: features[name] for name in columns}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": ordered}})})


def _label(points: Points, class_names: Mapping[int, str]) -> dict[str, object]:
    highest = max([*class_names, *(label for label in points.labels if label is not None)], default=-1)
    names = [class_names[number] for number in range(highest + 1) if number in class_names]
    if not names or len(names) <= highest:
        return {"dtype": "int64", "_type": "Value"}
    return {"names": names, "_type": "ClassLabel"}
