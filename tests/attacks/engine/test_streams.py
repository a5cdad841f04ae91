"""Random numbers belong to the image: to its pixels, the seed and the row, and to nothing else."""

import numpy as np
import torch

from igd_ray.attacks.engine.streams import image_keys, normal, stream, uniform

IMAGES = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))


def test_a_key_is_that_of_the_pixels_wherever_the_image_stands() -> None:
    keys = image_keys(IMAGES)
    assert len(set(keys)) == 4
    assert image_keys(IMAGES.flip(0)) == keys[::-1]
    assert image_keys(IMAGES[2:3]) == keys[2:3]


def test_images_of_the_same_pixels_in_another_shape_have_other_keys() -> None:
    assert image_keys(IMAGES.view(4, 1, 1, 9)) != image_keys(IMAGES)


def test_what_is_drawn_for_one_stream_does_not_depend_on_the_others() -> None:
    keys = image_keys(IMAGES)
    together = uniform([stream(3, key, "start", 0) for key in keys], (1, 3, 3))
    alone = uniform([stream(3, keys[2], "start", 0)], (1, 3, 3))
    assert torch.equal(together[2:3], alone)


def test_streams_of_other_seeds_images_and_rows_are_other_numbers() -> None:
    keys = image_keys(IMAGES)
    others = [
        (0, keys[0], "a", 0),
        (1, keys[0], "a", 0),
        (0, keys[1], "a", 0),
        (0, keys[0], "b", 0),
        (0, keys[0], "a", 1),
    ]
    drawn = uniform([stream(*each) for each in others], (64,))
    assert torch.corrcoef(drawn).fill_diagonal_(0).abs().max() < 0.5
    assert len({tuple(row) for row in drawn.tolist()}) == 5


def test_the_numbers_are_uniform_and_normal() -> None:
    """Mean and variance of 40 000 numbers over many streams, each from its start: within four standard errors."""
    streams = [stream(seed, b"image", 0) for seed in range(400)]
    numbers = uniform(streams, (100,)).double()
    assert abs(numbers.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / 40_000)
    assert abs(numbers.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / 40_000)
    numbers = normal(streams, (100,)).double()
    assert abs(numbers.mean()) < 4 / np.sqrt(40_000)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / 40_000)
