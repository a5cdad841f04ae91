"""Names of classes that a user gives: which lists are refused."""

import pytest

from igd_ray.data import load_images
from igd_ray.data.class_names import parse_class_names
from igd_ray.errors import InputError


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one"),
        (["cat", ""], "non-empty strings"),
        (["cat", "dog", "cat"], "must all differ, but 'cat' is among them 2 times"),
    ],
)
def test_bad_lists_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_class_names(names)


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="'digits' has 10 classes, but 2 names were given"):
        load_images("digits", n=1, class_names=["even", "odd"])
