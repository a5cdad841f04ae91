"""Norms, threat models and the numbers people write for epsilon."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel, parse_fraction


def test_distance_by_hand() -> None:
    images = torch.zeros(2, 1, 2, 2)
    perturbed = torch.tensor([[[[0.3, 0.0], [0.0, -0.4]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    assert Norm.LINF.distance(perturbed, images).tolist() == pytest.approx([0.4, 0.0])
    assert Norm.L2.distance(perturbed, images).tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("text", ["linf", "Linf", "LINF"])
def test_norms_are_parsed_whatever_their_case(text: str) -> None:
    assert Norm.parse(text) is Norm.LINF


def test_unknown_norm_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"one of linf, l2, not 'linfty'; did you mean 'linf'\?"):
        Norm.parse("linfty")


@pytest.mark.parametrize("epsilon", [0.0, -8 / 255, 8.0, 1.0001, math.nan, math.inf])
def test_epsilon_outside_the_unit_interval_is_refused(epsilon: float) -> None:
    with pytest.raises(InputError, match=r"eps must lie in \(0, 1\]"):
        ThreatModel(Norm.LINF, epsilon)


def test_epsilon_at_the_bounds_is_taken() -> None:
    assert ThreatModel(Norm.LINF, 1.0).epsilon == 1.0
    assert ThreatModel(Norm.L2, 3.0).epsilon == 3.0
    with pytest.raises(InputError, match="eps"):
        ThreatModel(Norm.L2, math.inf)


def test_threat_models_are_shown_in_grey_levels_where_they_are_whole() -> None:
    assert str(ThreatModel(Norm.LINF, parse_fraction("8/255"))) == "linf 8/255"
    assert str(ThreatModel(Norm.LINF, 0.031)) == "linf 0.031"  # 0.031 is not 8/255


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_fractions_are_quotients(numerator: int, denominator: int) -> None:
    assert parse_fraction(f"{numerator}/{denominator}") == numerator / denominator


@given(st.floats(allow_nan=False))
def test_numbers_are_themselves(value: float) -> None:
    assert parse_fraction(repr(value)) == value
    assert parse_fraction(value) == value


@pytest.mark.parametrize("text", ["", "eight", "8/", "/255", "8/0", "1/2/3", "8:255"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="fraction such as 8/255, not"):
        parse_fraction(text)
