"""Examples in docstrings are true, in every module, and the mathematics has examples."""

import doctest
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest
import torch

import igd_ray

ON_RAY = "igd_ray.cluster"

# Modules of which every public function has an example.
WITH_EXAMPLES = ("igd_ray.statistics", "igd_ray.threat", "igd_ray.identity")

# The functions and classes of rankings, defenses, attacks and search that compute the equations of the method.
MATHEMATICS = {
    "igd_ray.ranking.clip_dissect": {"soft_wpmi", "wpmi", "rank_reorder"},
    "igd_ray.ranking.leave_one_out": {"leave_one_out_sums"},
    "igd_ray.ranking.random": {"random_scores"},
    "igd_ray.ranking.scores": {"NeuronScores"},
    "igd_ray.defenses.masks": {"class_masks"},
    "igd_ray.defenses.interpretability_guided": {"InterpretabilityGuidedDefense"},
    "igd_ray.defenses.confidence": {"ConfidenceMaskingDefense"},
    "igd_ray.defenses.smoothing": {"SmoothingOnly"},
    "igd_ray.defenses.hedge": {"HedgeDefense"},
    "igd_ray.defenses.anti_adversary": {"AntiAdversaryDefense"},
    "igd_ray.defenses.sodef": {"sine_dynamics", "integrate"},
    "igd_ray.defenses.sodef_training": {
        "equilibrium_penalty",
        "jacobians",
        "diagonal_penalty",
        "dominance_penalty",
        "nearest_orthonormal",
        "distant_rows",
    },
    "igd_ray.attacks.adaptive.objective": {"image_losses"},
    "igd_ray.attacks.pgd": {"steepest", "project"},
    "igd_ray.search.bisection": {"Bisection"},
    "igd_ray.search.samplers": {"grid"},
    "igd_ray.search.space": {"Measurement"},
}


def modules() -> Iterator[str]:
    """The names of all modules of the package."""
    for module in pkgutil.walk_packages(igd_ray.__path__, "igd_ray."):
        yield module.name


def run(name: str) -> list[str]:
    """Run the examples of a module; return those that fail, as "module.function, line N"."""
    module = import_module(name)
    failed = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, extraglobs={"torch": torch}):
        report: list[str] = []
        if doctest.DocTestRunner().run(test, out=report.append).failed:
            failed.append("".join(report))
    return failed


def test_examples_are_true() -> None:
    assert [failure for name in modules() if not name.startswith(ON_RAY) for failure in run(name)] == []


@pytest.mark.cluster
def test_examples_of_what_needs_ray_are_true() -> None:
    assert [failure for name in modules() if name.startswith(ON_RAY) for failure in run(name)] == []


def test_an_example_that_is_false_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("igd_ray.statistics")
    monkeypatch.setattr(module.mcnemar, "__doc__", ">>> mcnemar(3, 3)\n0.5\n")
    (failure,) = run("igd_ray.statistics")
    assert "0.5" in failure


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_every_public_function_has_an_example(name: str) -> None:
    assert public_functions(import_module(name)) - with_examples(name) == set()


@pytest.mark.parametrize("name", MATHEMATICS)
def test_the_mathematics_has_examples(name: str) -> None:
    assert MATHEMATICS[name] - with_examples(name) == set()


def with_examples(name: str) -> set[str]:
    """The functions and classes of a module that have an example, in their methods too."""
    found = doctest.DocTestFinder(exclude_empty=False).find(import_module(name), name)
    return {test.name.removeprefix(f"{name}.").partition(".")[0] for test in found if test.examples}


def public_functions(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
