"""The engine's Square: pyautoattack's schedule and rule, with squares of each image's own."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from igd_ray.attacks import AutoAttack, Square
from igd_ray.attacks.base import POOLED
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.engine.square import search_squares, square_sides
from igd_ray.attacks.engine.streams import image_keys, stream
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel

SHAPE = (2, 7, 7)
THREAT = ThreatModel(Norm.LINF, 0.1)


class Small(nn.Module):
    """A random network in float64, so that a batch's rounding moves nothing; remembers the points it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(98, 24), nn.Tanh(), nn.Linear(24, 6)).double()
            for parameter in self.layers.parameters():
                parameter.data *= 2
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(images.detach().clone())
        logits: Tensor = self.layers(images.double() - 0.5)
        return logits


@pytest.fixture
def small() -> Small:
    return Small()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(2)) * 0.6 + 0.2


@pytest.fixture
def labels(small: Small, images: Tensor) -> Tensor:
    return small(images).argmax(dim=1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (224, 224)])
def test_the_squares_have_the_sides_of_pyautoattacks_schedule(height: int, width: int) -> None:
    theirs = SquareAttack(None, eps=0.1, resc_schedule=False)
    sides = square_sides(9000, height, width)
    for query in (*range(0, 60), *range(190, 210), 499, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6001, 8000, 8001):
        side = max(round(float(np.sqrt(theirs.p_selection(query) * height * width))), 1)
        assert sides[query] == min(side, height, width)


def test_a_square_is_kept_where_it_lowers_the_margin_as_transcribed(small: Small, images: Tensor) -> None:
    """Image by image, each with its numbers: the loop of pyautoattack, written out, asks at the same points."""
    found = 0
    for number, image in enumerate(images[:12].split(1)):
        # Every other ball is too small for any square to break the image, so that all queries are asked.
        threat = THREAT if number % 2 else ThreatModel(Norm.LINF, 0.004)
        label = small(image).argmax(dim=1)
        numbers = stream(5, image_keys(image)[0], "square", 0)
        expected, broken = transcribed(small, image, label, threat, numbers, queries=80)
        small.asked.clear()
        points, there = search_squares(
            CountedTarget(small), image, label, threat, 5, queries=80, restarts=1, attacked=[0]
        )
        asked = torch.cat(small.asked)
        # A broken image is looked at once more.
        assert len(asked) == len(expected) + broken
        assert (asked[: len(expected)] - expected).abs().max() < 1e-6
        assert bool(there) == broken
        found += broken
        assert broken == (not torch.equal(points, image))
    assert 0 < found < 12


def transcribed(
    small: Small, image: Tensor, label: Tensor, threat: ThreatModel, numbers: np.random.Generator, queries: int
) -> tuple[Tensor, bool]:
    """The points at which Square asks on one image: (Andriushchenko et al., ECCV 2020), algorithm 1 and 2."""
    channels, height, width = SHAPE
    eps = threat.epsilon

    def margin(point: Tensor) -> float:
        logits = small(point)[0].detach()
        others = [float(logit) for position, logit in enumerate(logits) if position != int(label)]
        return float(logits[label]) - max(others)

    stripes = torch.tensor(numbers.random((1, channels, 1, width), dtype=np.float32))
    best = (image + eps * torch.where(stripes < 0.5, -1.0, 1.0)).clamp(0, 1)
    asked, lowest = [best], margin(best)
    drawn = iter(numbers.random((250, 2 + channels), dtype=np.float32))
    for query in range(queries):
        if lowest <= 0:
            break
        top, left, *colours = next(drawn)
        side = square_sides(queries, height, width)[query]
        top, left = int(top * (height - side)), int(left * (width - side))
        tried = best.clone()
        for channel, colour in enumerate(colours):
            patch = tried[0, channel, top : top + side, left : left + side]
            patch += -2 * eps if colour < 0.5 else 2 * eps
        tried = torch.minimum(torch.maximum(tried, image - eps), image + eps).clamp(0, 1)
        asked.append(tried)
        if (now := margin(tried)) < lowest or now <= 0:
            best, lowest = tried, now
    return torch.cat(asked), lowest <= 0


def test_an_image_has_one_outcome_in_shards_of_any_size_and_in_any_order(
    small: Small, images: Tensor, labels: Tensor
) -> None:
    shuffled = np.random.default_rng(0).permutation(64).tolist()
    whole = outcome(small, images, labels, [range(64)])
    assert 0 < whole[0].sum() < 64
    for shards in ([*pieces(range(16), 1), *pieces(range(16, 64), 8)], pieces(shuffled, 64), pieces(shuffled, 7)):
        broken, points = outcome(small, images, labels, shards)
        assert torch.equal(broken, whole[0])
        assert (points - whole[1]).abs().max() < 1e-6


def test_it_draws_anew_after_a_block_of_queries(small: Small, images: Tensor, labels: Tensor) -> None:
    small.asked.clear()
    search_squares(
        CountedTarget(small), images[:2], labels[:2], ThreatModel(Norm.LINF, 1e-3), 0, queries=520, restarts=1,
        attacked=[0, 1],
    )  # fmt: skip
    # The margin hardly moves, so that almost every query is a change of one point by a square of its own.
    assert len(small.asked) == 521
    steps = [points[0] - images[0] for points in small.asked]
    assert len({tuple(step.flatten().tolist()) for step in steps[-300:]}) > 30


def test_other_restarts_draw_other_squares(small: Small, images: Tensor, labels: Tensor) -> None:
    small.asked.clear()
    search_squares(
        CountedTarget(small), images[:1], labels[:1], ThreatModel(Norm.LINF, 1e-3), 0, queries=5, restarts=3,
        attacked=[0],
    )  # fmt: skip
    starts = small.asked[0]
    assert len(starts) == 3
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 3


def test_the_two_norm_is_refused_before_work(images: Tensor) -> None:
    for attack in (Square(5), AutoAttack()):
        attack.check(10, Norm.L2)
        with pytest.raises(InputError, match="infinity norm only"):
            attack.on_engine(POOLED).check(10, Norm.L2)


def pieces(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def outcome(small: Small, images: Tensor, labels: Tensor, shards: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Which images Square breaks, and its points, where it takes the images shard by shard."""
    broken, points = torch.zeros(len(images), dtype=torch.bool), images.clone()
    for shard in shards:
        rows = torch.tensor(list(shard))
        result = Square(60, restarts=2).on_engine(POOLED)(
            small, images[rows], labels[rows], threat=THREAT, generator=torch.Generator().manual_seed(11)
        )
        broken[rows], points[rows] = result.broken, result.adversarial
    return broken, points
