"""Files of points that others computed: each is checked against the threat model and judged by the model here."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from igd_ray.config import EvaluateSettings
from igd_ray.data import LabeledImages
from igd_ray.data.points import PointsFile
from igd_ray.errors import InputError
from igd_ray.planning.workspace import Workspace
from igd_ray.threat import predicted_classes
from igd_ray.units.base import reproducible
from igd_ray.verification.verdicts import Failure, allowed_points

# Images that are judged at a time.
BATCH = 256

MISCLASSIFIED, ROBUST, BROKEN, REFUSED = "misclassified", "robust", "broken", "refused"

# Over all sets of a file: what decides an image, the first of these that one of its points has.
WORST_FIRST = (MISCLASSIFIED, BROKEN, REFUSED, ROBUST)
WORST_CASE = "worst case"


class PointsCheck(NamedTuple):
    """What became of one set of points.

    Attributes:
        points: its name in the file, or "worst case" for all of them together.
        statuses: of each image: misclassified without any attack; else broken or robust at its point, or refused where
            the point lies outside [0, 1] or the threat model.
        largest_distance: of a point to its image, in the norm of the threat model; None if one is NaN or infinite.
        faults: of each refused point what is wrong with it.
    """

    points: str
    statuses: tuple[str, ...]
    largest_distance: float | None
    faults: tuple[Failure, ...]

    @property
    def row(self) -> dict[str, object]:
        """Numbers of images, and accuracies as fractions; a refused point leaves the robust one unknown."""
        count = self.statuses.count
        images = len(self.statuses)
        return {
            "points": self.points,
            "images": images,
            **{status: count(status) for status in (MISCLASSIFIED, BROKEN, ROBUST, REFUSED)},
            "clean_accuracy": 1 - count(MISCLASSIFIED) / images,
            "robust_accuracy": None if count(REFUSED) else count(ROBUST) / images,
            "largest_distance": self.largest_distance,
        }


def judge_file(workspace: Workspace[EvaluateSettings], file: PointsFile, *, device: str) -> list[PointsCheck]:
    """Judge each set of points of `file`, and all together if there are several; nothing is written.

    Point i belongs to image i of the split, or to the image of its id where the file has ids.

    Raises:
        InputError: if points and images do not fit each other, or an image cannot be read.
        IgdError: if the model gives NaN or infinite logits.
    """
    images = _images_of(workspace, file)
    shape = list(workspace.example.shape[1:])
    for name, points in file.sets.items():
        if list(points.shape[1:]) != shape:
            raise InputError(f"points {name!r} are {list(points.shape[1:])}, the images {shape}")
        if len(points) < len(images):
            raise InputError(f"{len(points)} points {name!r} for {len(images)} images; judge fewer: --n {len(points)}")
    model = workspace.model.to(device)
    checks = []
    with reproducible():
        pixels, wrong = _clean(model, images, device)
        for name, points in file.sets.items():
            checks.append(_judge(workspace, name, points[: len(images)], images, pixels, wrong, device))
    return checks if len(checks) == 1 else [*checks, _worst_case(checks)]


def _images_of(workspace: Workspace[EvaluateSettings], file: PointsFile) -> LabeledImages:
    images = workspace.test
    if file.ids is None:
        return images
    places = {image_id: place for place, image_id in enumerate(images.ids)}
    missing = [image_id for image_id in file.ids if image_id not in places]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(file.ids)} points belong to images that are not among the first {len(images)} of "
            f"the split {workspace.settings.split!r}, first {missing[0]!r}; name their data, or more images with --n"
        )
    return images.select([places[image_id] for image_id in file.ids])


def _clean(model: nn.Module, images: LabeledImages, device: str) -> tuple[list[Tensor], Tensor]:
    """Return the images, batch by batch, and a bool [n] of which the model gets wrong without any attack."""
    pixels, wrong = [], []
    for batch, labels in images.batches(BATCH):
        pixels.append(batch)
        wrong.append(predicted_classes(model, batch.to(device)).cpu() != labels)
    return pixels, torch.cat(wrong)


def _judge(
    workspace: Workspace[EvaluateSettings],
    name: str,
    points: npt.NDArray[np.float32],
    images: LabeledImages,
    pixels: Sequence[Tensor],
    wrong: Tensor,
    device: str,
) -> PointsCheck:
    threat, model = workspace.settings.threat, workspace.model
    statuses: list[str] = []
    distances: list[float] = []
    faults: list[Failure] = []
    for batch in pixels:
        start = len(statuses)
        rows = slice(start, start + len(batch))
        here, everywhere = torch.from_numpy(points[rows]), torch.ones(len(batch), dtype=torch.bool)
        allowed, found = allowed_points({name: (here, everywhere)}, batch, threat)
        broken = predicted_classes(model, allowed[name][0].to(device)).cpu() != images.labels[rows]
        for row in range(len(batch)):
            if wrong[start + row]:
                statuses.append(MISCLASSIFIED)
            elif row in found:
                statuses.append(REFUSED)
                faults.append(Failure(images.ids[start + row], found[row]))
            else:
                statuses.append(BROKEN if broken[row] else ROBUST)
        distances += threat.norm.distance(here.double(), batch.double()).tolist()
    largest = max(distances) if np.isfinite(distances).all() else None
    return PointsCheck(name, tuple(statuses), largest, tuple(faults))


def _worst_case(checks: Sequence[PointsCheck]) -> PointsCheck:
    """Return what all sets together leave of each image."""
    statuses = tuple(
        min(of_image, key=WORST_FIRST.index) for of_image in zip(*(check.statuses for check in checks), strict=True)
    )
    distances = [check.largest_distance for check in checks]
    largest = None if None in distances else max(distance for distance in distances if distance is not None)
    return PointsCheck(WORST_CASE, statuses, largest, ())
