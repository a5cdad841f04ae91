"""Evaluations of models with few classes: they succeed, and the catalog says which attacks are not the usual ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from igd_ray.attacks import APGD, FAB, Square, TargetedAPGD, auto_attack
from igd_ray.catalog import Catalog, run_query
from igd_ray.data import load_images
from igd_ray.models.demo import DEMO_EPSILON, WEIGHTS_FILE
from tests.toys.runs import run_evaluation

NET = """
from torch import nn

from igd_ray.models.demo import DemoResNet


def net(classes):
    model = DemoResNet()
    model.linear = nn.Linear(64, classes)
    return model
"""

AUDIT = "audit-joint-loss-3"
ATTACKS = ("aa", "apgd-t-4", "apgd-dlr-4", "fab-t-4", "tr-apgd-t-dlr-4", "tr-aa", "apgd-eot", AUDIT)
NO_DLR = "DLR needs 3 classes, the model has 2: the margin −(z_y − max_{j≠y} z_j) took its place"
NO_TARGETED = "targeted DLR needs 4 classes, the model has {}: the margin −(z_y − z_t) took its place"


def aims(targets: int, of: int) -> str:
    return f"aims at {targets} of {of} target classes"


def of_auto_attack(*notes: str) -> str:
    """What AutoAttack says: of its targeted APGD these `notes`, of its targeted FAB the last of them."""
    return "; ".join([*(f"apgd-t: {note}" for note in notes), f"fab-t: {notes[-1]}"])


AUTO_ATTACK = {
    2: of_auto_attack(NO_TARGETED.format(2), aims(1, 9)),
    3: of_auto_attack(NO_TARGETED.format(3), aims(2, 9)),
    5: of_auto_attack(aims(4, 9)),
}
EXPECTED = {
    2: {
        "aa": AUTO_ATTACK[2],
        "tr-aa": AUTO_ATTACK[2],
        "apgd-t-4": f"{NO_TARGETED.format(2)}; {aims(1, 9)}",
        "apgd-dlr-4": NO_DLR,
        "fab-t-4": aims(1, 9),
        "tr-apgd-t-dlr-4": f"{NO_TARGETED.format(2)}; {aims(1, 3)}",
        "apgd-eot": f"apgd-dlr: {NO_DLR}",
        AUDIT: NO_DLR,
    },
    3: {
        "aa": AUTO_ATTACK[3],
        "tr-aa": AUTO_ATTACK[3],
        "apgd-t-4": f"{NO_TARGETED.format(3)}; {aims(2, 9)}",
        "fab-t-4": aims(2, 9),
        "tr-apgd-t-dlr-4": f"{NO_TARGETED.format(3)}; {aims(2, 3)}",
    },
    5: {"aa": AUTO_ATTACK[5], "tr-aa": AUTO_ATTACK[5], "apgd-t-4": aims(4, 9), "fab-t-4": aims(4, 9)},
    10: {},
}


@pytest.fixture
def short() -> Iterator[None]:
    """AutoAttack with the stages of its name and smaller budgets."""
    standard = (
        ("apgd-ce", APGD("ce", steps=2)),
        ("apgd-t", TargetedAPGD(steps=2)),
        ("fab-t", FAB(steps=2)),
        ("square", Square(10)),
    )
    rand = (("apgd-ce", APGD("ce", steps=2, eot=2)), ("apgd-dlr", APGD("dlr", steps=2, eot=2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "VERSIONS", {"standard": standard, "rand": rand})
        yield


def study_of(folder: Path, classes: int) -> dict[str, object]:
    """Settings for the first digits alone, and the demo network with the logits of these."""
    (folder / "net.py").write_text(NET)
    weights = load_file(WEIGHTS_FILE)
    for name in ("linear.weight", "linear.bias"):
        weights[name] = weights[name][:classes].clone()
    save_file(weights, folder / "few.safetensors")
    for split, n in (("train", 120), ("test", 80)):
        data = load_images("digits", split=split, n=n)
        for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
            if label < classes:
                file = folder / "digits" / split / str(label) / f"{number:03}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((255 * image[0]).round().byte().numpy()).save(file)
    return {
        "model": f"{folder / 'net.py'}:net",
        "weights": str(folder / "few.safetensors"),
        "model_arg": {"classes": classes},
        "data": f"folder:{folder / 'digits'}",
        "eps": DEMO_EPSILON,
        "n": 10,
        "shard_size": 10,
        "probe_n": 2 * classes,
        "search_n": 1,
    }


@pytest.mark.parametrize("classes", EXPECTED)
def test_attacks_that_a_model_has_too_few_classes_for_say_what_they_did_instead(
    tmp_path: Path, short: None, classes: int
) -> None:
    catalog = tmp_path / "results"
    summary = run_evaluation(catalog, **study_of(tmp_path, classes), defenses="none,loir-8", attacks=",".join(ATTACKS))
    assert not summary.failed
    outcomes = run_query(Catalog(catalog), "SELECT DISTINCT defense, attack, status FROM outcomes").to_pylist()
    attacked = {(row["defense"], row["attack"]) for row in outcomes}
    # An adaptive attack has no two passes to aim at in `none`, and skips what the others broke in the defense.
    assert attacked == {(defense, attack) for defense in ("none", "loir-8") for attack in ATTACKS} - {("none", AUDIT)}
    assert {row["status"] for row in outcomes if row["attack"] != AUDIT} <= {"robust", "broken", "misclassified"}
    rows = run_query(
        Catalog(catalog), """SELECT defense, attack, severity, message FROM checks WHERE "check" = 'few-classes'"""
    ).to_pylist()
    found = {(row["defense"], row["attack"]): row["message"] for row in rows}
    assert len(found) == len(rows)
    expected = EXPECTED[classes]
    assert found == {(defense, attack): expected[attack] for defense, attack in attacked if attack in expected}
    assert {row["severity"] for row in rows} <= {"info"}
