"""Images of a run as they are, as an attack left them, and what it changed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from igd_ray.report.figures.images import picture
from igd_ray.report.results import Rows
from igd_ray.report.tables import Row

# Neurons named of a class.
SHOWN_NEURONS = 4

# An image, float32 [C, H, W] in [0, 1].
Pixels = NDArray[np.float32]


class Pictures(NamedTuple):
    """An image that was attacked: addresses of pictures, and what is said of it.

    Attributes:
        clean, adversarial: the image as it is, if it is here, and the stored point.
        difference: the second minus the first on grey, amplified; None without the first.
        caption: label and predictions.
        detail: attack, defense, image, and how much the difference is amplified.
        neurons: the best neurons of the classes that were predicted before and after, where the defense has a ranking.
        broken: whether the point broke the defense.
    """

    clean: str | None
    adversarial: str
    difference: str | None
    caption: str
    detail: str
    neurons: str
    broken: bool


# The best neurons of a class in a ranking, by the ranking's id and the class, the best first.
Best = Mapping[tuple[str, int], Sequence[int]]


def best_neurons(rows: Rows) -> Best:
    """Return the best neurons of each class in each ranking, from rows of `read_neurons`."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row in rows:
        for ranking_id, rank in zip(row["ranking_ids"], row["ranks"], strict=True):
            if rank < SHOWN_NEURONS:
                found.setdefault((ranking_id, row["class_id"]), []).append((rank, row["neuron"]))
    return {place: [neuron for _, neuron in sorted(ranked)] for place, ranked in found.items()}


def pictures(
    points: Rows, class_names: Mapping[int, str], clean: Mapping[str, Pixels], best: Best | None = None
) -> list[Pictures]:
    """Return adversarial points as pictures with captions, beside the images in `clean` that they moved."""
    return [_pictures(row, class_names, clean.get(row["image_id"]), best or {}) for row in points]


def _pictures(row: Row, class_names: Mapping[int, str], image: Pixels | None, best: Best) -> Pictures:
    def named(label: int) -> str:
        return class_names.get(label, str(label))

    point = np.asarray(row["pixels"], dtype=np.float32).reshape(tuple(row["shape"]))
    broken = row["status"] == "broken"
    before, after = named(row["clean_prediction"]), named(row["adversarial_prediction"])
    label = named(row["label"])
    caption = f"{label}: {before} → {after}" if broken else f"{label}: stays {after}"
    if row["status"] == "misclassified":
        caption = f"{label}: taken for {before} without an attack"
    detail = f"{row['attack']} on {row['defense']}, image {row['image_id']}"
    told = [
        f"{named(label)}: {', '.join(map(str, best[row['ranking_id'], label]))}"
        for label in dict.fromkeys((row["clean_prediction"], row["adversarial_prediction"]))
        if (row.get("ranking_id"), label) in best
    ]
    neurons = f"best neurons of {'; of '.join(told)}" if told else ""
    if image is None or image.shape != point.shape:
        return Pictures(None, picture(point), None, caption, detail, neurons, broken)
    difference = point - image
    largest = float(np.abs(difference).max())
    # Grey where nothing moved; what moved the most is black or white.
    shown = 0.5 + (difference / (2 * largest) if largest else difference)
    amplified = f", difference × {0.5 / largest:.2g}" if largest else ", not moved"
    return Pictures(picture(image), picture(point), picture(shown), caption, detail + amplified, neurons, broken)
