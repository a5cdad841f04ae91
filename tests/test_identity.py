"""Keys depend on content alone, and seeds on keys."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.errors import InputError
from igd_ray.identity import STAGE_VERSIONS, content_hash, derive_seed, unit_key
from tests.toys.commands import run_python

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_the_order_of_a_dictionary_does_not_count(value: dict[str, object]) -> None:
    assert content_hash(dict(reversed(value.items()))) == content_hash(value)


@given(st.lists(st.integers(), min_size=2, max_size=5, unique=True))
def test_the_order_of_a_list_counts(value: list[int]) -> None:
    assert content_hash(value[::-1]) != content_hash(value)


def test_near_values_hash_differently() -> None:
    near = [0.1, 0.1 + 2**-55 * 2, 1, 1.0, True, "1", None, "None", [], {}, [1], [[1]]]
    assert len({content_hash(value) for value in near}) == len(near)


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.zeros(2), b"bytes", lambda: 0, {"a": object()}])
def test_what_would_hash_by_its_address_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        content_hash(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_write_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        content_hash(value)


def test_hashes_are_the_same_in_another_process() -> None:
    value = {"b": [1, 0.1, None], "a": {"x": True}}
    program = f"from igd_ray.identity import content_hash; print(content_hash({value!r}))"
    done = run_python(program)
    assert done.stdout.strip() == content_hash(value), done.stderr


def test_a_unit_key_depends_on_stage_settings_and_code_version(monkeypatch: pytest.MonkeyPatch) -> None:
    key = unit_key("attack", model="m", start=0)
    assert unit_key("attack", start=0, model="m") == key
    assert unit_key("attack", model="m", start=1) != key
    assert unit_key("transfer", model="m", start=0) != key
    monkeypatch.setattr("igd_ray.identity.STAGE_VERSIONS", {**STAGE_VERSIONS, "attack": 99})
    assert unit_key("attack", model="m", start=0) != key


def test_unknown_stages_have_no_key() -> None:
    with pytest.raises(InputError, match="one of ranking, embedding, sodef, search, attack"):
        unit_key("attak")


@given(st.text(alphabet="0123456789abcdef", min_size=32, max_size=32), st.sampled_from(["attack", "noise", "judge"]))
def test_seeds_are_31_bits_and_depend_on_key_and_purpose(key: str, purpose: str) -> None:
    seed = derive_seed(key, purpose)
    assert 0 <= seed < 2**31
    assert seed == derive_seed(key, purpose)
    assert seed != derive_seed(key, purpose + "!")
    assert seed != derive_seed(key[::-1] + "0", purpose)
    # Other libraries take seeds from this range only.
    torch.Generator().manual_seed(seed)


def test_seeds_use_their_whole_range() -> None:
    seeds = [derive_seed(str(number), "noise") for number in range(2000)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) < 2**31 // 100
    assert max(seeds) > 2**31 // 100 * 99
