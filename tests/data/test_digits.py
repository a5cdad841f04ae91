"""The digits: split, scaling, ids."""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from igd_ray.data.digits import digits_images
from igd_ray.errors import InputError


def test_splits_are_the_file_in_order():
    train, test = digits_images("train"), digits_images("test")
    assert (len(train), len(test)) == (1257, 540)
    bundle = load_digits()
    pixels = torch.cat([train.images, test.images])
    assert pixels.dtype == torch.float32
    assert pixels.shape == (1797, 1, 8, 8)
    # Sixteenths are exact in float32.
    assert np.array_equal(pixels[:, 0].numpy().astype(np.float64) * 16, bundle.images)
    assert np.array_equal(torch.cat([train.labels, test.labels]).numpy(), bundle.target)
    assert train.labels.dtype == torch.int64


def test_class_names_are_words():
    names = digits_images("test").class_names
    assert len(names) == 10
    assert (names[0], names[3], names[9]) == ("zero", "three", "nine")


def test_ids_hold_position_and_digest():
    test = digits_images("test")
    digest = hashlib.sha256(np.float32(load_digits().images[1257] / 16).tobytes()).hexdigest()[:8]
    assert test.ids[0] == f"digits-01257-{digest}"
    assert test.ids[-1].startswith("digits-01796-")
    assert len(set(test.ids) | set(digits_images("train").ids)) == 1797


def test_wrong_split_names_the_close_one():
    with pytest.raises(InputError, match=r"train, test, not 'tset'; did you mean 'test'"):
        digits_images("tset")
