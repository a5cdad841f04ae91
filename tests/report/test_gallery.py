"""Images of a run as they are, as an attack left them, and what it changed."""

import base64
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from PIL import Image

from igd_ray.catalog import Catalog
from igd_ray.errors import InputError
from igd_ray.report.html import write_report
from igd_ray.report.preparation.gallery import Pixels
from igd_ray.report.tables import Row
from igd_ray.verbs.clean_images import clean_images
from tests.toys.catalog_rows import add_plan, add_run, outcome, row

CLEAN = np.array([[[0.0, 0.5], [1.0, 0.25]]], dtype=np.float32)
MOVED = np.array([[[0.1, 0.4], [1.0, 0.25]]], dtype=np.float32)


@pytest.fixture
def attacked(catalog: Catalog) -> Catalog:
    """One broken and one robust image of a defense, and one whose point was not kept."""
    add_run(catalog)
    add_plan(catalog, {"u": ("loir-2", "aa", "abc")})
    statuses = {"a": "broken", "b": "robust", "c": "broken"}
    catalog.commit(
        "outcomes",
        "u",
        [outcome("u", "loir-2", "aa", image, status, ranking_id="r") for image, status in statuses.items()],
    )
    points = [
        row(
            "adversarials",
            unit_key="u",
            image_id=image,
            point="returned",
            shape=[1, 2, 2],
            pixels=point.ravel().tolist(),
        )
        for image, point in (("a", MOVED), ("b", CLEAN))
    ]
    catalog.commit("adversarials", "u", points)
    names = {0: "<b>cat", 1: "dog"}
    scores = [
        row(
            "rankings",
            ranking_id="r",
            method="loir",
            model_id="m0",
            class_id=c,
            class_name=n,
            neuron=0,
            score=1.0,
            rank=0,
        )
        for c, n in names.items()
    ]
    catalog.commit("rankings", "r", scores)
    return catalog


def _found(run: Row, image_ids: Sequence[str]) -> Mapping[str, Pixels]:
    assert set(image_ids) == {"a", "b"}
    return dict.fromkeys(image_ids, CLEAN)


def _page(catalog: Catalog, **given: object) -> str:
    return write_report(catalog, None, catalog.root.parent / "report.html", **given).read_text()  # type: ignore[arg-type]


def _pixels(page: str) -> list[list[int]]:
    data = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(each))).convert("L") for each in data]
    return [np.asarray(picture).ravel().tolist() for picture in pictures]


def test_clean_adversarial_and_amplified_difference(attacked: Catalog) -> None:
    page = _page(attacked, clean_images=_found)
    # The first two pixels moved by a tenth up and down, which is amplified to white and black on grey.
    clean = [0, 128, 255, 64]
    assert _pixels(page) == [clean, [26, 102, 255, 64], [255, 0, 128, 128], clean, clean, [128] * 4]
    assert "dog: dog → &lt;b&gt;cat" in page
    assert "dog: stays dog" in page
    assert "<br>best neurons of dog: 0; of &lt;b&gt;cat: 0</small>" in page, "before and after"
    assert "<br>best neurons of dog: 0</small>" in page, "the prediction stays"
    assert "difference × 5" in page
    assert "not moved" in page
    assert page.index("<h3>Broken</h3>") < page.index("<h3>Robust, though attacked</h3>")


def test_clean_images_that_are_not_here_are_said_to_be_absent(attacked: Catalog) -> None:
    def gone(run: Row, image_ids: Sequence[str]) -> Mapping[str, Pixels]:
        raise InputError("no file <at> images.parquet")

    page = _page(attacked, clean_images=gone)
    assert "Clean images are absent: no file &lt;at&gt; images.parquet." in page
    assert len(_pixels(page)) == 2
    assert "Clean images are absent: their pixels are not in the catalog." in _page(attacked)


def test_points_that_were_not_kept_are_said_to_be_absent(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a")})
    catalog.commit("outcomes", "u", [outcome("u", "none", "aa", "a", "broken")])
    page = _page(catalog, clean_images=_found)
    assert "holds no adversarial points of this run" in page
    assert "<img" not in page


def test_images_are_found_where_the_run_took_them_from() -> None:
    run = {"config": '{"data": "digits"}', "split": "test", "n": 3}
    from igd_ray.data import load_images

    images = load_images("digits", n=3)
    found = clean_images(run, [images.ids[1], "of another catalog"])
    assert list(found) == [images.ids[1]]
    assert np.array_equal(found[images.ids[1]], images.images[1].numpy())
    for config in (None, "no JSON", "[]"):
        with pytest.raises(InputError, match="does not say where"):
            clean_images({**run, "config": config}, ["a"])
