"""Points that others computed, from a file to one more attack of an evaluation."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from igd_ray.attacks.adaptive.published import PublishedPoints
from igd_ray.attacks.own import require_free_label
from igd_ray.attacks.registry import NamedAttack, Registration
from igd_ray.config import EvaluateSettings
from igd_ray.data import LabeledImages
from igd_ray.data.images import ArrayReader
from igd_ray.data.points import load_points
from igd_ray.errors import InputError
from igd_ray.planning.workspace import Workspace
from igd_ray.protocol import AUDIT_PREFIX, TRANSFER_PREFIX
from igd_ray.threat import check_given

# What a file of points without a name of its own is called.
POINTS = "points"

# Points that are checked at a time.
BATCH = 256


def published_attack(workspace: Workspace[EvaluateSettings], entry: str) -> NamedAttack:
    """Return the attack whose points are in the file of `entry`, FILE or NAME=FILE; workers bring them along.

    Point i belongs to image i of the split. Points behind the last image are left out.

    Raises:
        InputError: if the file cannot be read, has too few points or points of another shape, or a point lies outside
            [0, 1] or the threat model.
    """
    name, equals, file = entry.rpartition("=")
    label = name if equals else POINTS
    if label.startswith((TRANSFER_PREFIX, AUDIT_PREFIX)):
        raise InputError(
            f"--points {entry}: a name must not begin with {TRANSFER_PREFIX} or {AUDIT_PREFIX}; choose another"
        )
    require_free_label(label, f"--points {entry}")
    images, threat = workspace.test, workspace.settings.threat
    what, shape = Path(file).name, list(workspace.example.shape[1:])
    points = load_points(file)
    if list(points.shape[1:]) != shape:
        raise InputError(f"--points {what}: its points are {list(points.shape[1:])}, the images {shape}")
    if len(points) < len(images):
        raise InputError(
            f"--points {what}: it has {len(points)} points for {len(images)} images; evaluate fewer, such as "
            f"--n {len(points)}"
        )
    points = points[workspace.order]
    for start in range(0, len(images), BATCH):
        part = images.select(slice(start, start + BATCH))
        pixels = next(iter(part.batches(BATCH)))[0]
        everywhere = torch.ones(len(part), dtype=torch.bool)
        chosen = torch.from_numpy(points[start : start + BATCH])
        if not torch.isfinite(chosen).all():
            raise InputError(f"--points {what}: it has NaN or infinity in points {start}…{start + len(part) - 1}")
        check_given(chosen, everywhere, pixels, threat, f"points of {what}")
    held = LabeledImages(
        ArrayReader(points), np.arange(len(points)), images.labels, images.ids, images.class_names, what, POINTS
    )
    image_set = f"{POINTS}:{label}"
    workspace.bring_points(image_set, held)
    algorithm = PublishedPoints(hashlib.sha256(np.ascontiguousarray(points).tobytes()).hexdigest(), image_set)
    return NamedAttack(label, algorithm, False, Registration(label, PublishedPoints))
