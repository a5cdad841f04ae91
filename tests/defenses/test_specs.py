"""Defense labels and arguments, and the identity, cost and construction of what they stand for."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.defenses.masks import class_masks
from igd_ray.defenses.registry import DefensePasses
from igd_ray.defenses.sodef import SodefTraining
from igd_ray.defenses.sodef_training import initial_state
from igd_ray.defenses.specs import (
    DefenseLabel,
    DefenseSpec,
    defense_arguments,
    known_defenses,
    parse_defense,
)
from igd_ray.errors import InputError
from igd_ray.models import find_layer
from igd_ray.models.demo import demo_model

LAYER = find_layer(demo_model(), "penultimate", torch.rand(1, 1, 8, 8))
LAYER3 = find_layer(demo_model(), "layer3", torch.rand(1, 1, 8, 8))
SPEC = DefenseSpec("loir-5", "m", "masking", k=5, sigma=0.1, tau=0.01, draws=1, layer=LAYER, ranking_id="r")
MASKED = {"sigma": 0.0, "tau": 0.01, "draws": 1, "layer": LAYER, "ranking_id": "r"}


@pytest.mark.parametrize(
    ("label", "kind", "method", "number", "drops"),
    [
        ("none", "none", None, None, False),
        ("loir-50", "masking", "loir", 50, False),
        ("cdir-1", "masking", "cdir", 1, False),
        ("random-128", "masking", "random", 128, False),
        ("random-drop-10", "masking", "random", 10, True),
        ("confidence-50", "confidence", "loir", 50, False),
        ("two-pass", "two-pass", None, None, False),
        ("smoothing-only", "smoothing-only", None, None, False),
        ("hedge", "hedge", None, None, False),
        ("anti-adversary", "anti-adversary", None, None, False),
        ("sodef", "sodef", None, None, False),
    ],
)
def test_labels(label: str, kind: str, method: str | None, number: int | None, drops: bool) -> None:
    assert parse_defense(label) == DefenseLabel(label, kind, method, number, drops)


@pytest.mark.parametrize("label", ["", "loir", "loir-", "loir-0", "loir-05", "loir--5", "loir-5.5", "lior-50", "None"])
def test_what_is_no_label_names_the_known_ones(label: str) -> None:
    known = ", ".join(known_defenses())
    with pytest.raises(InputError, match=f"unknown defense {label!r}; known: {known}, K a number"):
        parse_defense(label)


def test_close_labels_are_named() -> None:
    with pytest.raises(InputError, match=r"did you mean 'loir-K'"):
        parse_defense("lior-50")


def test_dropping_keeps_the_others() -> None:
    assert parse_defense("random-drop-10").kept(64, "penultimate") == 54
    assert parse_defense("random-10").kept(64, "penultimate") == 10
    assert parse_defense("hedge").kept(64, "penultimate") is None
    with pytest.raises(InputError, match="fewer than all can be dropped"):
        parse_defense("random-drop-64").kept(64, "penultimate")
    with pytest.raises(InputError, match=r"k must lie in 1…64, the neurons of 'penultimate', not 65"):
        parse_defense("loir-65").kept(64, "penultimate")


def test_arguments_replace_the_authors_values() -> None:
    values = defense_arguments({"hedge.steps": 3, "confidence.threshold": "4/5", "anti-adversary.step_size": 0})
    assert values["hedge"] == {"steps": 3, "step_size": 4 / 255, "random_start": False}
    assert values["confidence"] == {"threshold": 0.8}
    assert values["anti-adversary"] == {"steps": 2, "step_size": 0.0}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hedge.step", 3, "no defense has the argument 'hedge.step'.*did you mean 'hedge.steps'"),
        ("hedge.steps", 2.5, "hedge.steps: expected a whole number, such as 20, not 2.5"),
        ("hedge.steps", True, "hedge.steps: expected a whole number"),
        ("hedge.random_start", 1, "hedge.random_start: expected true or false, such as False, not 1"),
        ("confidence.threshold", "high", "expected a number"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        defense_arguments({name: value})


def test_identity_is_what_is_computed_and_not_the_label() -> None:
    assert replace(SPEC, label="chosen by the search").defense_id == SPEC.defense_id
    others = [
        replace(SPEC, **change)
        for change in (
            {"model_id": "other"},
            {"kind": "confidence"},
            {"arguments": (("threshold", 0.8),)},
            {"k": 6},
            {"sigma": 0.2},
            {"tau": 0.02},
            {"draws": 2},
            {"ranking_id": "s"},
            {"layer": LAYER3},
            {"k": None, "sigma": None, "tau": None, "draws": None, "layer": None, "ranking_id": None},
        )
    ]
    assert len({spec.defense_id for spec in [SPEC, *others]}) == 1 + len(others)


def test_a_masking_spec_builds_the_defense_with_its_masks() -> None:
    model, x = demo_model(), torch.rand(4, 1, 8, 8)
    scores = torch.rand(10, 64, dtype=torch.float64)
    built = SPEC.build(model, torch.Generator().manual_seed(0), scores=scores)
    direct = InterpretabilityGuidedDefense(
        model, class_masks(scores, 5), sigma=0.1, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(built(x), direct(x))
    assert SPEC.is_random
    assert not SPEC.still().is_random


def test_no_defense_is_the_model_itself() -> None:
    model = demo_model()
    spec = DefenseSpec("none", model_id="m")
    assert spec.build(model, torch.Generator()) is model
    assert not spec.is_random


SPECS = [
    DefenseSpec("none", "m"),
    DefenseSpec("loir-5", "m", "masking", 5, **MASKED),
    DefenseSpec("loir-5", "m", "masking", 5, **{**MASKED, "layer": LAYER3}),
    DefenseSpec("loir-5", "m", "masking", 5, **{**MASKED, "sigma": 0.1, "draws": 3}),
    DefenseSpec("confidence-5", "m", "confidence", 5, **{**MASKED, "sigma": 0.1}, arguments=(("threshold", 0.9),)),
    DefenseSpec("two-pass", "m", "two-pass", **{**MASKED, "ranking_id": None}, arguments=(("classes", 10),)),
    DefenseSpec("smoothing-only", "m", "smoothing-only", sigma=0.1, draws=2),
    DefenseSpec(
        "hedge",
        "m",
        "hedge",
        arguments=(("epsilon", 0.1), ("random_start", True), ("step_size", 0.02), ("steps", 3)),
    ),
    DefenseSpec("anti-adversary", "m", "anti-adversary", arguments=(("step_size", 0.1), ("steps", 2))),
    DefenseSpec("sodef", "m", "sodef", layer=LAYER, arguments=(("training", "t"),)),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.label}-{spec.defense_id[:4]}")
def test_a_built_defense_costs_what_its_spec_says_and_is_random_if_it_says_so(spec: DefenseSpec) -> None:
    model, x = demo_model(), torch.rand(4, 1, 8, 8)
    passed = [0]

    def count(_module: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
        passed[0] += len(inputs[0])

    model.register_forward_hook(count)
    generator = torch.Generator().manual_seed(0)
    trained = initial_state(64, 10, SodefTraining(), 0) if spec.kind == "sodef" else None
    scores = torch.rand(10, 64, generator=generator) if spec.ranking_id else None
    built = spec.build(model, generator, scores=scores, trained=trained)
    assert (
        DefensePasses(
            getattr(built, "forward_passes", 1),
            getattr(built, "inner_backward_passes", 0),
            getattr(built, "backward_passes", getattr(built, "forward_passes", 1)),
        )
        == spec.passes
    )
    first = built(x)
    assert passed[0] == 4 * spec.passes.query_forwards
    assert first.shape == (4, 10)
    if not spec.is_random:
        assert torch.equal(first, built(x))
    still = spec.still().build(model, generator, scores=scores, trained=trained)
    assert torch.equal(still(x), still(x))
