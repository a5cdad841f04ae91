"""Entries of a leaderboard as RobustBench keeps them: one JSON object for each defense of a run."""

from typing import Any

from igd_ray.protocol import NONE
from igd_ray.report.results import Results
from igd_ray.report.tables import number, pixel_fraction

# RobustBench's column of AutoAttack is the standard version with its published budget.
AUTO_ATTACK = "aa"

# What attacks nothing: a look at the images as they are.
CLEAN = "clean"


def leaderboard_entry(results: Results, defense: str) -> dict[str, Any]:
    """Return the entry of one defense of a run, with the fields of RobustBench's `model_info` files.

    Accuracies are texts in percent with two decimals, as there. None is what the run does not know: what only authors
    can say (`link`, `authors`, `venue`, …), and accuracies that were not measured. `autoattack_acc` is the accuracy
    under `aa` on all images of the run. `external` is the worst case over all attacks, which is where RobustBench puts
    an evaluation that goes beyond AutoAttack; `footnote` says of what. What RobustBench has no field for is in `igd`.

    Args:
        results: of a run of `igd evaluate`.
        defense: one of its worst cases.

    Source: RobustBench's README, "Adding a new model", and model_info/cifar10/Linf/Kang2021Stable.json.
    """
    run = results.run
    row = next(each for each in results.worst_cases if each["defense"] == defense)
    audited = results.is_audited
    worst, low, high = (
        row[name] for name in (("audited_accuracy", "audited_low", "audited_high") if audited else _WORST)
    )
    comparison = results.compared.get(defense)
    under = {cell["attack"]: cell["robust_accuracy"] for cell in results.accuracies if cell["defense"] == defense}
    attacks = [attack for attack in results.planned.get(defense, []) if attack != CLEAN]
    return {
        "link": None,
        "name": run["model"] if defense == NONE else f"{defense} on {run['model']}",
        "authors": None,
        "additional_data": None,
        "number_forward_passes": None,
        "dataset": run["dataset"],
        "venue": None,
        "architecture": None,
        "eps": pixel_fraction(run["epsilon"]) if run["norm"] == "linf" else number(run["epsilon"]),
        "clean_acc": _percent(row["clean_accuracy"]),
        "reported": None,
        "autoattack_acc": _percent(under.get(AUTO_ATTACK)),
        "external": _percent(worst),
        "footnote": _footnote(worst, len(attacks), row["n"], audited=audited),
        "unreliable": None,
        "igd": {
            "run_id": run["run_id"],
            "model_id": run["model_id"],
            "threat_model": run["norm"],
            "split": run["split"],
            "images": row["n"],
            "worst_case": worst,
            "worst_case_95": None if low is None or high is None else [low, high],
            "gain": row["audited_gain"] if audited else row["gain"],
            "claim": comparison.verdict if comparison is not None else None,
            "p": comparison.p if comparison is not None else None,
            "robust_accuracy": {attack: under[attack] for attack in attacks},
        },
    }


_WORST = ("robust_accuracy", "low", "high")


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.2f}"


def _footnote(worst: float | None, attacks: int, images: int, *, audited: bool) -> str | None:
    if worst is None:
        return None
    count = f"{attacks} attack" if attacks == 1 else f"{attacks} attacks"
    audit = ", adaptive ones among them," if audited else ""
    return f"{100 * worst:.2f}% robust accuracy is the image-wise worst case over {count}{audit} on {images} images"
