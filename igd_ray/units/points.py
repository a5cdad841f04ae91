"""Adversarial points in the catalog: which a unit keeps, and how they are read back."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from igd_ray.units.base import Rows, Shard
from igd_ray.units.replica import Context

TABLE = "adversarials"
CLEAN_POINT = "clean"

# Points by name: float32 [n, C, H, W], and a bool [n] that says where they exist.
Points = Mapping[str, tuple[Tensor, Tensor]]

# Which points a unit commits: every one, those of broken images, or none.
SavePoints = Literal["all", "broken", "none"]

# Of images with more values than 64×64 pixels in color have, only the points that broke their image are kept, unless
# --save-points says otherwise: 5 000 images of 224×224 under nine attacks have 27 GB of points.
MOST_VALUES_KEPT = 3 * 64 * 64


def points_to_save(chosen: SavePoints | None, image: Tensor) -> SavePoints:
    """Return which points of attacks on defenses are kept: `chosen`, or what suits images of the size of `image`.

    >>> points_to_save(None, torch.zeros(3, 32, 32)), points_to_save(None, torch.zeros(3, 224, 224))
    ('all', 'broken')
    """
    if chosen is not None:
        return chosen
    return "all" if image.numel() <= MOST_VALUES_KEPT else "broken"


def point_rows(key: str, shard: Shard, points: Points) -> Rows:
    """Return the rows that keep every existing point for the table `adversarials`.

    The points of an image come one after another: where they are equal, the file holds them about once.
    """
    pixels = {name: candidates.flatten(1).cpu().numpy() for name, (candidates, _) in points.items()}
    return [
        {
            "unit_key": key,
            "image_id": image_id,
            "point": name,
            "shape": list(candidates.shape[1:]),
            "pixels": pixels[name][index],
        }
        for index, image_id in enumerate(shard.ids)
        for name, (candidates, exists) in points.items()
        if exists[index]
    ]


def read_points(context: Context, key: str, shard: Shard, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the points that the unit `key` kept of the shard's images.

    Images without any point stand for themselves under the first name.
    """
    table = context.catalog.read(TABLE, key)
    position = {image_id: index for index, image_id in enumerate(shard.ids)}
    points: dict[str, tuple[Tensor, Tensor]] = {}
    names = table["point"].to_pylist()
    for row, (image_id, name) in enumerate(zip(table["image_id"].to_pylist(), names, strict=True)):
        if image_id not in position:
            continue  # the unit's shard is larger: memory did not suffice for all of it here
        if name not in points:
            points[name] = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        candidates, exists = points[name]
        values = torch.tensor(table["pixels"][row].values.to_numpy(), dtype=torch.float32)
        candidates[position[image_id]] = values.reshape(images.shape[1:]).to(images.device)
        exists[position[image_id]] = True
    if not points:
        points[CLEAN_POINT] = images, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return points
