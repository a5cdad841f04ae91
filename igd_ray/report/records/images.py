"""What a run says of single images: verdicts as CSV, and the adversarial points that it kept."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
from PIL import Image

from igd_ray.catalog.query import Reader
from igd_ray.identity import content_hash
from igd_ray.protocol import TRANSFER_PREFIX

GREY_LEVELS = 255

# How many channels a picture can have.
CHANNELS = (1, 3)

# Longest name of a file that is made of a label.
LONGEST_NAME = 80


def verdict_table(reader: Reader, run_id: str) -> pa.Table:
    """Return a row for each planned image, defense and attack of a run; what was not measured is NULL."""
    return reader.table(
        """
        SELECT
            planned.defense, planned.attack, planned.image_id, label, clean_prediction, adversarial_prediction, status,
            stage, distance, queries, forwards, backwards, judge_draws, broken_any, broken_majority, broken_all
        FROM (SELECT DISTINCT defense, attack, image_id FROM planned WHERE run_id = $1) AS planned
        LEFT JOIN (FROM outcomes WHERE run_id = $1) AS outcomes USING (defense, attack, image_id)
        ORDER BY ALL
        """,
        run_id,
    )


def csv_of(table: pa.Table) -> bytes:
    """Return `table` as CSV with a header; NULL is empty, and texts stand in quotes."""
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer)
    return buffer.getvalue()


class Kept(NamedTuple):
    """Points that a run kept of one attack on one defense, all of one kind.

    Attributes:
        defense, attack: whose.
        point: which of an attack's points: returned, highest-loss, last-misclassified.
        shape: of an image, (C, H, W).
        images: how many have one.
    """

    defense: str
    attack: str
    point: str
    shape: tuple[int, ...]
    images: int


class Points(NamedTuple):
    """Adversarial points with what the run says of their images, in the order of the images' ids.

    Attributes:
        ids, labels, statuses: of each image.
        pixels: float32 [n, C, H, W].
    """

    ids: list[str]
    labels: list[int | None]
    statuses: list[str]
    pixels: npt.NDArray[np.float32]


# The points of an attack lie with the unit that made them. A transfer has none of its own: its points are those of the
# attack of that name on the undefended model, in the same run.
_KEPT = f"""
WITH asked AS (
    SELECT unit_key, defense, attack, image_id, label, status, clean_prediction, adversarial_prediction
    FROM outcomes
    WHERE run_id = $1 AND status <> 'error'
), own AS (
    SELECT asked.*, points.point, points.shape, points.pixels
    FROM asked
    JOIN adversarials AS points USING (unit_key, image_id)
), made AS (
    SELECT DISTINCT unit_key, attack FROM stored_run_units WHERE run_id = $1 AND defense = 'none' AND attack IS NOT NULL
), kept AS (
    FROM own
    UNION ALL
    SELECT asked.*, points.point, points.shape, points.pixels
    FROM asked
    JOIN made USING (attack)
    JOIN unit_parts AS parts ON parts.unit_key = made.unit_key
    JOIN adversarials AS points ON points.unit_key = parts.part_key AND points.image_id = asked.image_id
    ANTI JOIN own ON own.defense = asked.defense AND own.attack = asked.attack
    WHERE starts_with(asked.attack, '{TRANSFER_PREFIX}')
)
"""


def kept_points(reader: Reader, run_id: str) -> list[Kept]:
    """Return which points a run kept, by defense, attack and kind of point."""
    rows = reader.rows(
        f"""
        {_KEPT}
        SELECT defense, attack, point, shape, count(*) AS images
        FROM kept
        WHERE len(shape) = 3 AND list_min(shape) > 0 AND list_product(shape) = len(pixels)
        GROUP BY ALL
        ORDER BY ALL
        """,
        run_id,
    )
    return [Kept(**{**row, "shape": tuple(row["shape"])}) for row in rows]


def read_points(reader: Reader, run_id: str, kept: Kept) -> Points:
    """Return the points `kept`, one of `kept_points`."""
    table = reader.table(
        f"""
        {_KEPT}
        SELECT image_id, label, status, pixels
        FROM kept
        WHERE defense = $2 AND attack = $3 AND point = $4 AND shape = $5 AND len(pixels) = $6
        ORDER BY image_id
        """,
        run_id,
        kept.defense,
        kept.attack,
        kept.point,
        list(kept.shape),
        int(np.prod(kept.shape)),
    )
    pixels = table["pixels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Points(
        table["image_id"].to_pylist(),
        table["label"].to_pylist(),
        table["status"].to_pylist(),
        np.asarray(pixels, dtype=np.float32).reshape(len(table), *kept.shape),
    )


def read_some_points(
    reader: Reader, run_id: str, kept: Kept, *, status: str | None, first: int, most: int
) -> list[dict[str, Any]]:
    """Return rows of the points `kept`, from `first` at most `most`, in the order of the images' ids.

    Args:
        status: of the images: "broken", "robust" or another; None for any.
    """
    return reader.rows(
        f"""
        {_KEPT}
        SELECT image_id, defense, attack, label, status, clean_prediction, adversarial_prediction, shape, pixels
        FROM kept
        WHERE defense = $2 AND attack = $3 AND point = $4 AND shape = $5 AND len(pixels) = $6
            AND ($7::VARCHAR IS NULL OR status = $7)
        ORDER BY image_id
        LIMIT $8 OFFSET $9
        """,
        run_id,
        kept.defense,
        kept.attack,
        kept.point,
        list(kept.shape),
        int(np.prod(kept.shape)),
        status,
        most,
        first,
    )


def points_npz(points: Points) -> bytes:
    """Return points as an `.npz` file: `points` float32 [n, C, H, W], `ids`, `labels` (−1 if unknown) and `statuses`.

    `igd evaluate --points` reads it: of its arrays only `points` has four dimensions. Nothing in it is pickled.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        points=points.pixels,
        ids=np.array(points.ids, dtype=np.str_),
        labels=np.array([-1 if label is None else label for label in points.labels], dtype=np.int64),
        statuses=np.array(points.statuses, dtype=np.str_),
    )
    return buffer.getvalue()


def png_of(pixels: npt.NDArray[np.float32]) -> bytes | None:
    """Return an image [C, H, W] in [0, 1] as PNG of 8 bits; None if it has neither one channel nor three.

    A value v becomes the grey level round(255·v), halves to the even one. NaN and what lies outside of [0, 1] is cut.
    """
    if pixels.shape[0] not in CHANNELS:
        return None
    shades = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * GREY_LEVELS).astype(np.uint8)
    buffer = io.BytesIO()
    image = shades[0] if len(shades) == 1 else shades.transpose(1, 2, 0)
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def file_name(label: str) -> str:
    """Return a name for a file or folder that says `label`, whatever that contains; equal only for equal labels.

    >>> file_name("tr-apgd-ce"), file_name("../x")
    ('tr-apgd-ce', '___x-db8f7bad')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", label)[:LONGEST_NAME]
    plain = re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), plain)
    return plain if plain and plain == label else f"{plain}-{content_hash(label)[:8]}"


def broken_rows(points: Points) -> Sequence[int]:
    """Return the positions of the points whose images the run calls broken."""
    return [row for row, status in enumerate(points.statuses) if status == "broken"]
