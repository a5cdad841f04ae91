"""`aa-fast`: a first answer for a tenth of the passes, which is never called AutoAttack."""

import pytest

from igd_ray.attacks import AutoAttack
from igd_ray.attacks.registry import parse_attack
from igd_ray.protocol import NINE_ATTACKS

# A gradient costs a forward and a backward pass, and a backward pass as much as two forward passes.
BACKWARD = 2


def forward_equivalents(attack: AutoAttack) -> int:
    queries, gradients = attack.collapsed().most_passes(10)
    return queries + BACKWARD * gradients


def test_an_image_that_stands_costs_a_tenth_of_autoattack_at_most() -> None:
    fast, published = forward_equivalents(AutoAttack("fast")), forward_equivalents(AutoAttack())
    assert published > 11_000
    assert 0.08 < fast / published < 0.1


@pytest.mark.parametrize("engine", ["pyautoattack", "pooled"])
def test_it_is_searched_by_the_pool_whatever_engine_the_others_have(engine: str) -> None:
    attack = AutoAttack("fast").on_engine(engine)
    assert set(attack.searched_by.values()) == {"pooled"}
    assert attack.settings == AutoAttack("fast").settings


def test_it_is_none_of_the_nine_attacks_and_another_attack_than_aa() -> None:
    assert "aa-fast" not in NINE_ATTACKS
    fast, published = (parse_attack(label).algorithm for label in ("aa-fast", "aa"))
    assert fast is not None
    assert published is not None
    assert dict(fast.settings) != dict(published.settings)
