"""The images of a run as they are, for its report: the catalog holds only those that an attack moved."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from igd_ray.errors import InputError

if TYPE_CHECKING:
    from igd_ray.report.preparation.gallery import Pixels


def clean_images(run: Mapping[str, Any], image_ids: Sequence[str]) -> dict[str, "Pixels"]:
    """Return those of `image_ids` that are among the images of `run`, each float32 [C, H, W] in [0, 1].

    Raises:
        InputError: if the run's images are not here.
    """
    # Imported here: only a report that shows points waits for PyTorch.
    from igd_ray.data import load_images

    try:
        config = json.loads(run["config"] or "{}")
    except ValueError:
        config = {}
    if not isinstance(config, dict) or not isinstance(config.get("data"), str):
        raise InputError("the run does not say where its images come from")
    images = load_images(config["data"], split=run["split"], n=run["n"])
    places = {image_id: place for place, image_id in enumerate(images.ids) if image_id in set(image_ids)}
    if not places:
        return {}
    pixels = images.reader.read([int(images.indices[place]) for place in places.values()])
    return {image_id: image.numpy() for image_id, image in zip(places, pixels, strict=True)}
