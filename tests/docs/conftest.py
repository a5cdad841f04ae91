"""A folder as a reader of the pages has it: the repository, a model with data, and a catalog of the demo's model."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.models import load_model
from igd_ray.ranking import RANKINGS
from tests.toys.places import REPOSITORY, SHARED

# Flags behind a documented command that make it take seconds; the last of equal flags counts.
SMALL = ("--executor", "local", "--n", "4", "--probe-n", "100", "--search-n", "40")

YOUR_MODEL = """
from igd_ray.models.demo import demo_model


def factory(width):
    assert width == 16
    return demo_model()
"""


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Forget the rankings in files that a page's commands register."""
    known = dict(RANKINGS)
    yield
    RANKINGS.clear()
    RANKINGS.update(known)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog of two rankings, a search and an evaluation, as several pages query it."""
    folder = tmp_path_factory.mktemp("docs")
    catalog = ["--catalog", str(folder / "results")]
    assert main(["rank", "--method", "loir,cdir", *SMALL, *catalog]) == 0
    assert main(["search", "--ks", "1,8,64", *SMALL, *catalog]) == 0
    attacks = "clean,tr-apgd-ce-2"
    assert main(["evaluate", "--defenses", "none,loir-8", "--attacks", attacks, *SMALL, *catalog]) == 0
    return folder


@pytest.fixture
def workplace(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test: a copy of `filled` with the files that the pages name."""
    folder = tmp_path / "igd-ray"
    shutil.copytree(filled, folder)
    for name in ("results-cifar", "results-worst-case"):
        (folder / name).symlink_to("results")
    for name in ("catalog", "jobs", "docs", "tests", "Makefile"):
        (folder / name).symlink_to(REPOSITORY / name)
    if SHARED.is_dir():
        (tmp_path / "shared").symlink_to(SHARED)
    _write_your_model(folder)
    _write_authors_ranking(folder / "DIR")
    torch.save({"adv_complete": load_images("digits", n=4).images}, folder / "points.pth")
    monkeypatch.chdir(folder)
    return folder


def _write_your_model(folder: Path) -> None:
    """A model file with weights, as README's own model, and images under its spec."""
    place = folder / "path" / "to"
    place.mkdir(parents=True)
    (place / "file.py").write_text(YOUR_MODEL)
    save_file(load_model("demo").state_dict(), folder / "weights.safetensors")
    shutil.copy(place / "file.py", folder / "net.py")
    shutil.copy(folder / "weights.safetensors", folder / "net.safetensors")
    for split, count in (("train", 150), ("test", 4)):
        digits = load_images("digits", split=split, n=count)
        encoded = []
        for pixels in (digits.images[:, 0] * 255).round().byte().numpy():
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            encoded.append({"bytes": file.getvalue(), "path": None})
        pq.write_table(pa.table({"img": encoded, "label": digits.labels.tolist()}), place / f"{split}.parquet")


def _write_authors_ranking(folder: Path) -> None:
    """A ranking as the authors' scripts save it: one file a neuron."""
    folder.mkdir()
    scores = np.random.default_rng(0).random((64, 10), dtype=np.float32)
    for neuron, row in enumerate(scores):
        np.save(folder / f"unit{neuron}.npy", row)
