"""Points that others computed: read without unpickling, checked before work, judged as one more attack."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.data.points import load_points
from igd_ray.errors import InputError
from igd_ray.models import load_model
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from tests.toys.runs import rows, run_evaluation, settings_for

N = 8
EPSILON = 0.2
CHOICE = {"attacks": "clean", "defenses": "none,hedge", "defense_arg": {"hedge.steps": 2}, "n": N, "eps": EPSILON}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return load_images("digits", n=N).images


@pytest.fixture(scope="module")
def points(images: Tensor) -> Tensor:
    """Ten steps along the sign of the gradient, written out here; the last image stays as it is."""
    model, labels = load_model("demo"), load_images("digits", n=N).labels
    points = images.clone()
    for _ in range(10):
        points.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(points), labels, reduction="sum")
        step = 0.05 * torch.autograd.grad(loss, [points])[0].sign()
        points = (images + (points.detach() + step - images).clamp(-EPSILON, EPSILON)).clamp(0, 1)
    points[-1] = images[-1]
    return points


SAVED: dict[str, Callable[[Path, Tensor], object]] = {
    "npz": lambda path, x: np.savez(path, x_adv=x.numpy(), labels=np.zeros(len(x))),
    "safetensors": lambda path, x: safetensors.torch.save_file({"adv": x}, path),
    "pt": lambda path, x: torch.save({"adv_complete": x, "meta": [1, "two"]}, path),
    "pth": lambda path, x: torch.save(x, path),
}


@pytest.mark.parametrize("suffix", sorted(SAVED))
def test_every_kind_of_file_gives_the_same_points(tmp_path: Path, points: Tensor, suffix: str) -> None:
    path = tmp_path / f"points.{suffix}"
    SAVED[suffix](path, points)
    assert np.array_equal(load_points(path), points.numpy())


def test_bytes_are_pixels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.full((2, 1, 2, 2), 51, np.uint8))
    assert np.allclose(load_points(tmp_path / "a.npz"), 0.2)


class Trap:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"adv_complete": Trap()}, "trap.pt")
    np.savez("trap.npz", np.array([Trap()], dtype=object))
    for name in ("trap.pt", "trap.npz"):
        with pytest.raises(InputError, match=name):
            load_points(name)
    assert not Path("trapped").exists()


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda path: path.write_bytes(b"PK damaged"), "cannot be read as .npz"),
        (lambda path: np.savez(path, a=np.zeros(3)), r"expected one array \[n, C, H, W\] of points, found a \[3\]"),
        (lambda path: np.savez(path, a=np.zeros((1, 1, 2, 2)), b=np.zeros((1, 1, 2, 2))), "expected one array"),
        (lambda path: np.savez(path, np.zeros((1, 1, 2, 2), np.int64)), "expected float or uint8 points, not int64"),
        (lambda path: None, "no file of points"),
    ],
)
def test_a_file_without_points_is_one_line(tmp_path: Path, write: Callable[[Path], object], what: str) -> None:
    write(tmp_path / "a.npz")
    with pytest.raises(InputError, match=what):
        load_points(tmp_path / "a.npz")


def save(path: Path, points: Tensor) -> str:
    np.savez(path, points.numpy())
    return str(path)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda x: x[: N - 1], f"it has {N - 1} points for {N} images; evaluate fewer, such as --n {N - 1}"),
        (lambda x: x[:, :, :4], "the images"),
        (lambda x: x.index_fill(0, torch.tensor([2]), torch.nan), "NaN or infinity"),
        (lambda x: x - 1e-3 * (x == 0), "lie outside"),
        (lambda x: (x + 2 * EPSILON).clamp(0, 1), "lie outside"),
    ],
)
def test_points_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path: Path, points: Tensor, spoil: Callable[[Tensor], Tensor], what: str
) -> None:
    file = save(tmp_path / "a.npz", spoil(points))
    with pytest.raises(InputError, match=what):
        plan_evaluation(Workspace(settings_for(tmp_path / "results", **CHOICE, points=file)))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["aa", "tr-mine", "audit-mine", "Mine", "iwwc"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, points: Tensor, name: str) -> None:
    file = save(tmp_path / "a.npz", points)
    with pytest.raises(InputError, match="choose another"):
        plan_evaluation(Workspace(settings_for(tmp_path / "results", **CHOICE, points=f"{name}={file}")))


def test_they_are_one_more_attack_of_the_worst_case(tmp_path: Path, points: Tensor) -> None:
    """On the base model the verdicts are those of one forward pass; points behind the last image are left out."""
    file = save(tmp_path / "a.npz", torch.cat([points, torch.full_like(points, 7)]))
    catalog = tmp_path / "results"
    assert not run_evaluation(catalog, **CHOICE, points=f"theirs={file}", shard_size=5).failed
    data, model = load_images("digits", n=N), load_model("demo")
    wrong = (model(points).argmax(dim=1) != data.labels) & (model(data.images).argmax(dim=1) == data.labels)
    found = [row for row in rows(catalog) if row["attack"] == "theirs"]
    assert {row["defense"] for row in found} == {"none", "hedge"}
    broken = {row["image_id"] for row in found if row["defense"] == "none" and row["status"] == "broken"}
    assert broken == {image_id for image_id, bad in zip(data.ids, wrong.tolist(), strict=True) if bad}
    assert 0 < len(broken) < N
    worst = run_query(Catalog(catalog), "SELECT robust_accuracy FROM worst_case WHERE defense = 'none'").to_pylist()
    assert worst == [{"robust_accuracy": pytest.approx(1 - len(broken) / N)}]
    assert run_evaluation(catalog, **CHOICE, points=f"theirs={file}", shard_size=5).computed == 0


def test_the_keys_hold_the_points_used_and_not_where_they_lay(tmp_path: Path, points: Tensor, images: Tensor) -> None:
    def keys(x: Tensor, name: str) -> set[str]:
        settings = settings_for(tmp_path / "results", **CHOICE, points=save(tmp_path / name, x))
        return {cell.unit.key for cell in plan_evaluation(Workspace(settings)).cells if cell.attack == "points"}

    assert keys(points, "a.npz") == keys(torch.cat([points, points]), "b.npz")
    assert keys(points, "a.npz").isdisjoint(keys(torch.cat([images[:1], points[1:]]), "c.npz"))


def test_their_verdicts_verify(tmp_path: Path, points: Tensor) -> None:
    file = save(tmp_path / "a.npz", points)
    run_evaluation(tmp_path / "results", **CHOICE, points=file)
    assert main(["verify", "--catalog", str(tmp_path / "results")]) == 0
