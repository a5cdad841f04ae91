"""`igd verify --points`: points that others computed, as RobustBench and AutoAttack save them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.models import load_model
from tests.toys.commands import igd

N, EPSILON = 24, 0.15
IMAGES = load_images("digits", n=N)


@pytest.fixture(scope="module")
def attacked() -> tuple[Tensor, list[str]]:
    """One signed step on each image, and what becomes of each, told by the model itself."""
    model = load_model("demo")
    points = IMAGES.images.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(points), IMAGES.labels, reduction="sum").backward()
    assert points.grad is not None
    points = (IMAGES.images + EPSILON * points.grad.sign()).clamp(0, 1)
    clean, moved = (model(x).argmax(dim=1) != IMAGES.labels for x in (IMAGES.images, points))
    names = ["misclassified" if wrong else "broken" if moved[row] else "robust" for row, wrong in enumerate(clean)]
    assert {"broken", "robust"} <= set(names)
    return points, names


def test_the_model_s_own_predictions_are_what_is_reported(
    attacked: tuple[Tensor, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    points, names = attacked
    torch.save({"adv_complete": points}, "aa_standard_1_24_eps_0.15000.pth")
    words = ["verify", "--points", "aa_standard_1_24_eps_0.15000.pth", "--model", "demo"]
    (row,) = json.loads(igd([*words, "--json"], capsys))
    for status in ("misclassified", "broken", "robust"):
        assert row[status] == names.count(status)
    assert row["refused"] == 0
    assert row["robust_accuracy"] == names.count("robust") / N
    assert row["clean_accuracy"] == 1 - names.count("misclassified") / N
    assert row["largest_distance"] == pytest.approx(EPSILON, abs=1e-6)
    out = igd(words, capsys)
    assert out.splitlines()[-1] == "every point lies in [0, 1] and within linf 0.15 of its image"
    assert [file.name for file in tmp_path.iterdir()] == ["aa_standard_1_24_eps_0.15000.pth"], (
        "no catalog is read or made"
    )


def test_points_saved_attack_by_attack_have_a_row_each_and_a_worst_case(
    attacked: tuple[Tensor, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, names = attacked
    path = tmp_path / "individual.pth"
    torch.save({"apgd-ce": points, "fab": IMAGES.images}, path)
    first, second, worst = json.loads(igd(["verify", "--points", str(path), "--json"], capsys))
    assert [row["points"] for row in (first, second, worst)] == ["apgd-ce", "fab", "worst case"]
    assert (second["broken"], second["robust"]) == (0, N - names.count("misclassified"))
    assert {name: worst[name] for name in ("broken", "robust")} == {name: first[name] for name in ("broken", "robust")}
    (alone,) = json.loads(igd(["verify", "--points", f"{path}#apgd-ce", "--json"], capsys))
    assert alone == first


def test_a_point_outside_is_named_and_exits_1(
    attacked: tuple[Tensor, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, names = attacked
    right = [row for row, name in enumerate(names) if name != "misclassified"]
    spoiled = points.clone()
    spoiled[right[0]] += 2
    spoiled[right[1]] = torch.nan
    spoiled[right[2]] = (IMAGES.images[right[2]] - 0.5).abs()
    torch.save(spoiled, tmp_path / "x_adv.pt")
    words = ["verify", "--points", f"{tmp_path}/x_adv.pt"]
    assert main(words) == 1
    captured = capsys.readouterr()
    for row, why in zip(right[:3], ("outside [0, 1]", "holds NaN or infinity", "away, epsilon is 0.15"), strict=True):
        assert any(line.startswith(IMAGES.ids[row]) and why in line for line in captured.out.splitlines()), why
    assert captured.err.startswith(f"igd: error: 3 of {N} points are outside [0, 1] or linf 0.15, first ")
    assert main([*words, "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["refused"], row["robust_accuracy"], row["largest_distance"]) == (3, None, None)
    assert [fault["image_id"] for fault in row["faults"]] == [IMAGES.ids[place] for place in right[:3]]


def test_what_a_run_exports_is_found_by_the_ids_of_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = f"{tmp_path}/results"
    small = ["--n", "12", "--executor", "local", "--attacks", "apgd-ce-5", "--save-points", "all"]
    igd(["evaluate", "--catalog", catalog, *small], capsys)
    igd(["export", "--catalog", catalog, "--to", f"{tmp_path}/e", "--points", f"{tmp_path}/p"], capsys)
    (file,) = (tmp_path / "p").rglob("*.npz")
    with np.load(file) as archive:
        statuses = archive["statuses"].tolist()
        assert set(archive["ids"].tolist()) <= set(IMAGES.ids)
    (row,) = json.loads(igd(["verify", "--points", str(file), "--json"], capsys))
    assert (row["images"], row["broken"]) == (len(statuses), statuses.count("broken"))
    assert main(["verify", "--points", str(file), "--n", "1"]) == 2
    assert "not among the first 1 of the split 'test'" in capsys.readouterr().err


def test_what_cannot_be_judged_exits_2(
    attacked: tuple[Tensor, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, _ = attacked
    torch.save({"a": points, "b": points}, tmp_path / "two.pth")
    torch.save(points[:, :, :4], tmp_path / "cut.pth")
    for words, said in [
        (["--points", f"{tmp_path}/none.pth"], "no file of points at"),
        (["--points", f"{tmp_path}/two.pth#c"], "two.pth has no points 'c'; it has: a, b"),
        (["--points", f"{tmp_path}/cut.pth"], "are [1, 4, 8], the images [1, 8, 8]"),
        (["--points", f"{tmp_path}/two.pth", "--n", "30"], "judge fewer: --n 24"),
        (["--points", f"{tmp_path}/two.pth", "--defenses", "hedge"], "for defenses: igd evaluate"),
        (["--points", f"{tmp_path}/two.pth", "--sample", "3"], "--sample is for the cells of a run"),
        (["--eps", "0.1", "--catalog", f"{tmp_path}/r"], "--eps is for --points FILE without --run"),
    ]:
        assert main(["verify", *words]) == 2, words
        assert said in capsys.readouterr().err
    assert main(["evaluate", "--points", f"{tmp_path}/two.pth", "--n", "24", "--catalog", f"{tmp_path}/r"]) == 2
    assert "found a, b; name one, such as two.pth#a" in capsys.readouterr().err
