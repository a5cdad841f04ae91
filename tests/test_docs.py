"""Examples in docstrings are true."""

import doctest
import importlib

import pytest

RANKING = [f"igd_ray.ranking.{name}" for name in ("clip_dissect", "leave_one_out", "prompts", "random", "scores")]


@pytest.mark.parametrize("name", ["igd_ray.threat", "igd_ray.statistics", "igd_ray.defenses.masks", *RANKING])
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": importlib.import_module("torch")})
    assert result.attempted > 0
    assert result.failed == 0
