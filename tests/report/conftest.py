"""A synthetic catalog with something in every section of the report."""

import json
import random

import pytest

from igd_ray.catalog import Catalog
from tests.toys.catalog_rows import add_failure, add_plan, add_run, outcome, row

IMAGES = [f"image-{index:02d}" for index in range(40)]


def fill(catalog: Catalog) -> None:
    """Commit an evaluation of five defenses: one with a certain gain, one undecided, one failed, one not finished."""
    draw = random.Random(0)
    config = json.dumps({"attacks": ["aa", "rays-1000"], "note": "</pre><script>alert(1)</script>"})
    notes = [
        "Probe and search images come from the training split, which flatters clean accuracy.",
        "<b>bold</b> & $x$",
        "not measured: gradients averaged over the noise",
    ]
    add_run(catalog, n=len(IMAGES), notes=notes, config=config, epsilon=8 / 255)
    chances = {"none": 0.35, "loir-12": 0.7, "random-12": 0.38, "cdir-12": 0.5, "hedge": 0.5}
    attacks = ["aa", "rays-1000", "tr-aa"]
    add_plan(catalog, {f"{d}-{a}": (d, a, IMAGES) for d in chances for a in attacks})
    for defense, chance in chances.items():
        strength = {image: draw.random() < chance for image in IMAGES}
        for attack in attacks:
            key = f"{defense}-{attack}"
            if key == "cdir-12-aa":
                add_failure(catalog, key, "CUDA out of memory", attempt=1)
                continue
            if key == "hedge-rays-1000":
                continue
            rows = []
            for index, image in enumerate(IMAGES):
                status = "misclassified" if index < 3 else "robust" if strength[image] else "broken"
                if attack == "tr-aa" and status == "broken" and index % 2:
                    status = "skipped"
                setting = {} if defense in ("none", "hedge") else {"k": 12, "sigma": 4 / 255, "tau": 0.01, "draws": 1}
                rows.append(outcome(key, defense, attack, image, status, layer="penultimate", judge_draws=1, **setting))
            catalog.commit("outcomes", key, rows)
    points = [
        row(
            "adversarials",
            unit_key="none-aa",
            image_id=image,
            point="returned",
            shape=[1, 8, 8],
            pixels=[draw.random() for _ in range(64)],
        )
        for image in IMAGES
    ]
    catalog.commit("adversarials", "none-aa", points)
    for severity, check in (("info", "noise only"), ("warning", "zero gradient"), ("error", "outside the ball")):
        finding = {"defense": "loir-12", "attack": "aa", "message": f"{check}: <i>seen</i> on 3 images", "value": 3.0}
        rows = [row("checks", run_id="run", check=check, severity=severity, **finding)]
        catalog.commit("checks", check.replace(" ", "-"), rows * 2)
    scores = [
        row(
            "rankings",
            ranking_id="ranking",
            method="loir",
            model="demo",
            model_id="m0",
            dataset="digits",
            layer="penultimate",
            class_id=label,
            class_name=f"${label} <digit>",
            neuron=neuron,
            score=draw.expovariate(1.0),
            rank=neuron,
            probe_images=500,
        )
        for label in range(10)
        for neuron in range(64)
    ]
    catalog.commit("rankings", "ranking", scores)
    setting = {"sigma": 4 / 255, "tau": 0.01, "draws": 1, "n": 300, "base_clean_accuracy": 0.92, "tolerance": 0.02}
    common = {"search_id": "search", "model": "demo", "dataset": "digits", "method": "loir", "layer": "penultimate"}
    trials = [
        row("trials", **common, **setting, trial=index, k=k, clean_accuracy=clean, feasible=clean >= 0.9)
        for index, (k, clean) in enumerate([(64, 0.92), (32, 0.915), (16, 0.91), (8, 0.85), (12, 0.905)])
    ]
    catalog.commit("trials", "search", trials)
    chosen = row("searches", **common, **setting, model_id="m0", split="train", k=12, clean_accuracy=0.905)
    catalog.commit("searches", "search", [chosen])


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    made = Catalog(tmp_path_factory.mktemp("filled") / "results")
    made.create()
    fill(made)
    return made
