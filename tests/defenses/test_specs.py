"""Defense labels, and the identity and construction of what they stand for."""

from dataclasses import replace

import pytest
import torch

from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.defenses.masks import class_masks
from igd_ray.defenses.specs import DefenseLabel, DefenseSpec, parse_defense
from igd_ray.errors import InputError
from igd_ray.models import find_layer
from igd_ray.models.demo import demo_model

LAYER = find_layer(demo_model(), "penultimate", torch.rand(1, 1, 8, 8))
SPEC = DefenseSpec("loir-5", model_id="m", k=5, sigma=0.1, tau=0.01, draws=1, layer=LAYER, ranking_id="r")


@pytest.mark.parametrize(
    ("label", "method", "k"),
    [("none", None, None), ("loir-50", "loir", 50), ("cdir-1", "cdir", 1), ("random-128", "random", 128)],
)
def test_labels(label: str, method: str | None, k: int | None) -> None:
    assert parse_defense(label) == DefenseLabel(label, method, k)


@pytest.mark.parametrize("label", ["", "loir", "loir-", "loir-0", "loir-05", "loir--5", "loir-5.5", "lior-50", "None"])
def test_what_is_no_label_names_the_known_ones(label: str) -> None:
    with pytest.raises(InputError, match=f"unknown defense {label!r}; known: none, loir-K, cdir-K, random-K"):
        parse_defense(label)


def test_close_labels_are_named() -> None:
    with pytest.raises(InputError, match=r"did you mean 'loir-K'"):
        parse_defense("lior-50")


def test_identity_is_what_is_computed_and_not_the_label() -> None:
    assert replace(SPEC, label="chosen by the search").defense_id == SPEC.defense_id
    others = [
        replace(SPEC, **change)
        for change in (
            {"model_id": "other"},
            {"k": 6},
            {"sigma": 0.2},
            {"tau": 0.02},
            {"draws": 2},
            {"ranking_id": "s"},
            {"layer": find_layer(demo_model(), "layer3", torch.rand(1, 1, 8, 8))},
            {"k": None, "sigma": None, "tau": None, "draws": None, "layer": None, "ranking_id": None},
        )
    ]
    assert len({spec.defense_id for spec in [SPEC, *others]}) == 1 + len(others)


def test_a_masking_spec_builds_the_defense_with_its_masks() -> None:
    model, x = demo_model(), torch.rand(4, 1, 8, 8)
    scores = torch.rand(10, 64, dtype=torch.float64)
    built = SPEC.build(model, scores, torch.Generator().manual_seed(0))
    direct = InterpretabilityGuidedDefense(
        model, class_masks(scores, 5), sigma=0.1, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(built(x), direct(x))
    assert SPEC.is_random


def test_no_defense_is_the_model_itself() -> None:
    model = demo_model()
    spec = DefenseSpec("none", model_id="m")
    assert spec.build(model, None, torch.Generator()) is model
    assert not spec.is_random
