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

# Modules and packages of which every public function shows what it gives.
WITH_EXAMPLES = ("igd_ray.statistics", "igd_ray.threat", "igd_ray.identity")


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
def test_every_public_function_shows_what_it_gives(name: str) -> None:
    module = import_module(name)
    found = doctest.DocTestFinder(exclude_empty=False).find(module, name)
    shown = {test.name.removeprefix(f"{name}.").partition(".")[0] for test in found if test.examples}
    assert public_functions(module) - shown == set()


def public_functions(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
