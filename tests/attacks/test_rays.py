"""RayS: what it asks, what it spends, and how near it comes to a boundary that is known."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from igd_ray.attacks import AttackResult, RayS
from igd_ray.attacks.rays import RaySearch
from igd_ray.threat import Norm, ThreatModel


class Linear(nn.Module):
    """A linear classifier on 4 × 4 pixels, computed in float64; notes how many images each call brings."""

    def __init__(self, classes: int, *, seed: int = 0) -> None:
        super().__init__()
        self.weight = torch.randn(classes, 16, generator=Generator().manual_seed(seed), dtype=torch.float64)
        self.calls: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        return (images.double().flatten(1)[:, None] * self.weight).sum(dim=2)

    def distances(self, images: Tensor) -> Tensor:
        """Return the infinity distance of each image to the nearest boundary, |(w_y − w_j)·x| / ‖w_y − w_j‖₁."""
        logits = self(images)
        label = logits.argmax(dim=1)
        gaps = logits.gather(1, label[:, None]) - logits
        lengths = (self.weight[label][:, None] - self.weight).abs().sum(dim=2)
        return (gaps / lengths).nan_to_num(nan=torch.inf).amin(dim=1)


def grey_images(n: int, *, seed: int = 1) -> Tensor:
    """Images whose pixels lie so far from 0 and 1 that clipping changes no ray."""
    return 0.4 + 0.2 * torch.rand(n, 1, 4, 4, generator=Generator().manual_seed(seed))


def attack(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, queries: int = 400) -> AttackResult:
    return RayS(queries)(model, images, labels, threat=ThreatModel(Norm.LINF, epsilon), generator=Generator())


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).argmax(dim=1)


def one_image_by_hand(
    wrong: Callable[[Tensor], bool], image: Tensor, *, epsilon: float, queries: int
) -> tuple[Tensor | None, list[Tensor]]:
    """RayS on one image as the paper tells it (algorithms 1–3, with early stopping): the point, and all it asked.

    Lengths are those of the 2-norm, as there; a ray of the length √d reaches every corner.
    """
    pixels = image.numel()
    signs, best = [1.0] * pixels, math.inf
    asked: list[Tensor] = []

    def ask(signs: list[float], length: float) -> bool:
        unit = torch.tensor(signs, dtype=torch.float64).reshape(image.shape) / math.sqrt(pixels)
        asked.append((image.double() + min(length, math.sqrt(pixels)) * unit).clamp(0, 1).float())
        return wrong(asked[-1])

    def over() -> bool:
        inside = bool(asked) and float((asked[-1] - image).abs().max()) <= epsilon and wrong(asked[-1])
        return inside or len(asked) == queries

    level, block = 0, 0
    while not over():
        size = math.ceil(pixels / 2**level)
        start, stop = block * size, min(pixels, (block + 1) * size)
        attempt = [-sign if start <= pixel < stop else sign for pixel, sign in enumerate(signs)]
        if ask(attempt, best):
            low, high = 0.0, min(best, math.sqrt(pixels))
            while high - low > 1e-3 and not over():
                middle = (low + high) / 2
                low, high = (low, middle) if ask(attempt, middle) else (middle, high)
            if high < best:
                best, signs = high, attempt
        block += 1
        if stop == pixels:
            level, block = level + 1, 0
    point = asked[-1] if asked and wrong(asked[-1]) and float((asked[-1] - image).abs().max()) <= epsilon else None
    return point, asked


@pytest.mark.parametrize("classes", [2, 5])
def test_each_image_is_searched_as_the_paper_tells(classes: int) -> None:
    model, images = Linear(classes), grey_images(12)
    labels = predictions(model, images)
    epsilon = float(model.distances(images).median()) * 1.05
    result = attack(model, images, labels, epsilon=epsilon, queries=300)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):

        def wrong(point: Tensor, label: Tensor = label) -> bool:
            return bool(model(point[None]).argmax() != label)

        # The look at the clean image is the first of the attack's queries.
        point, asked = one_image_by_hand(wrong, image, epsilon=epsilon, queries=299)
        assert bool(result.found[row]) == (point is not None), row
        # On top come the verdict and, for one image, the look at the number of classes.
        assert int(result.queries[row]) - len(asked) - 2 in (0, 1), row
        if point is not None:
            assert torch.allclose(result.points["returned"][0][row], point, atol=1e-6), row
    assert result.found.any()
    assert not result.found.all()


def searched(model: nn.Module, images: Tensor, labels: Tensor, *, queries: int) -> RaySearch:
    search = RaySearch(images)
    for _ in range(queries):
        search.tell(predictions(model, search.ask()) != labels)
    return search


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_enough_queries_a_linear_boundary_is_reached(classes: int, seed: int) -> None:
    model, images = Linear(classes, seed=seed), grey_images(16)
    distances = model.distances(images)
    radius = searched(model, images, predictions(model, images), queries=1500).radius.double()
    assert (radius >= distances - 1e-6).all()
    # Two neighbouring radii of a binary search are 1e-3 / √16 apart at the end.
    assert (radius - distances).median() <= 2.5e-4
    if classes == 2:
        assert (radius - distances).max() <= 5e-4


def test_a_boundary_within_epsilon_breaks_and_one_beyond_does_not() -> None:
    model, images = Linear(2), grey_images(16)
    labels = predictions(model, images)
    epsilon = float(model.distances(images).median()) + 1e-6
    assert (model.distances(images) - epsilon).abs().min() < 1e-2 * epsilon
    result = attack(model, images, labels, epsilon=epsilon, queries=1500)
    assert not result.broken[model.distances(images) > epsilon].any()
    assert result.broken[model.distances(images) < epsilon - 5e-4].all()
    assert result.distance.max() <= epsilon


def test_a_point_beyond_epsilon_is_none() -> None:
    model, images = Linear(2), grey_images(8)
    labels = predictions(model, images)
    search = searched(model, images, labels, queries=300)
    assert search.radius.max() < 0.3
    result = attack(model, images, labels, epsilon=float(model.distances(images).min()) / 2, queries=300)
    assert not result.broken.any()
    assert not result.found.any()
    assert torch.equal(result.adversarial, images)


def test_what_an_image_asks_does_not_depend_on_the_others() -> None:
    model, images = Linear(4), grey_images(6)
    labels = predictions(model, images)
    epsilon = float(model.distances(images).median()) * 1.1
    together = attack(model, images, labels, epsilon=epsilon)
    for row in range(len(images)):
        alone = attack(model, images[row : row + 1], labels[row : row + 1], epsilon=epsilon)
        assert torch.equal(alone.adversarial[0], together.adversarial[row])
        assert abs(int(alone.queries) - int(together.queries[row])) <= 1  # the look at the number of classes
    assert together.queries.unique().numel() > 1


def test_an_image_is_left_alone_as_soon_as_it_is_broken() -> None:
    model, images = Linear(2), grey_images(8)
    labels = predictions(model, images)
    result = attack(model, images, labels, epsilon=float(model.distances(images).median()) * 1.2, queries=500)
    # The look at the number of classes, at the images, one call a query, and the verdict.
    assert len(model.calls[2:]) <= 500 + 2
    batches = model.calls[-500:-1]
    assert batches == sorted(batches, reverse=True)
    assert int(result.queries[~result.found].min()) >= 500
    assert (result.queries[result.found] < 500).all()
    assert int(result.queries.sum()) == sum(model.calls) - 2 * len(images)


def test_a_misclassified_image_costs_one_look() -> None:
    model, images = Linear(3), grey_images(4)
    labels = (predictions(model, images) + 1) % 3
    result = attack(model, images, labels, epsilon=0.1)
    assert result.broken.all()
    assert result.queries.tolist() == [3, 2, 2, 2]  # and the verdict; the first also shows the number of classes


class Coin(nn.Module):
    """Tosses a coin for every image it is shown."""

    def __init__(self, seed: int, *, heads: float = 0.5) -> None:
        super().__init__()
        self.generator, self.heads = Generator().manual_seed(seed), heads

    def forward(self, images: Tensor) -> Tensor:
        tossed = torch.rand(len(images), generator=self.generator) < self.heads
        return torch.stack([~tossed, tossed], dim=1).float()


@given(queries=st.integers(1, 60), epsilon=st.floats(1e-4, 1), heads=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_a_target_that_answers_at_random_costs_no_more_than_the_budget(
    queries: int, epsilon: float, heads: float, seed: int
) -> None:
    images = grey_images(5, seed=seed)
    result = attack(
        Coin(seed, heads=heads), images, torch.zeros(5, dtype=torch.int64), epsilon=epsilon, queries=queries
    )
    # On top of the budget: the verdict, and for the first image the look at the number of classes.
    assert (result.queries <= queries + 1 + torch.tensor([1, 0, 0, 0, 0])).all()
    assert (result.distance <= epsilon).all()
    assert torch.equal(result.forwards, result.queries)
    assert not result.backwards.any()


def test_success_of_a_random_target_is_judged_afresh() -> None:
    images, labels = grey_images(64), torch.zeros(64, dtype=torch.int64)
    result = attack(Coin(0, heads=0.2), images, labels, epsilon=1.0, queries=100)
    assert result.found.float().mean() > 0.5
    assert 0 < int(result.broken[result.found].sum()) < int(result.found.sum())


@given(answers=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=80), pixels=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_whatever_the_answers_no_radius_grows_and_every_point_is_an_image(
    answers: list[list[bool]], pixels: int
) -> None:
    images = torch.rand(3, 1, 1, pixels, generator=Generator().manual_seed(pixels))
    search = RaySearch(images)
    for wrong in answers:
        before = search.radius.clone()
        points = search.ask()
        assert points.min() >= 0
        assert points.max() <= 1
        assert ((points - images).flatten(1).abs().amax(dim=1) <= before + 1e-6).all()
        search.tell(torch.tensor(wrong))
        assert (search.radius <= before).all()


def test_a_ray_that_is_no_shorter_takes_no_place() -> None:
    """Two pixels, of which only the corners are ever misclassified; both are negative from the first block on."""
    search = RaySearch(torch.full((1, 1, 1, 2), 0.5))
    corners = []
    while len(corners) < 4:
        point = search.ask().flatten().tolist()
        at_a_corner = set(point) <= {0.0, 1.0}
        if at_a_corner:
            corners.append(point)
        search.tell(torch.tensor([at_a_corner]))
    # The first block at the lengths 1 and ½, then each pixel by itself at ½.
    assert corners == [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert search.radius.tolist() == [0.5]


def test_images_that_are_dropped_take_nothing_with_them() -> None:
    model, images = Linear(3), grey_images(6)
    labels = predictions(model, images)
    kept = torch.tensor([True, False, True, True, False, True])
    whole, part = searched(model, images, labels, queries=57), searched(model, images, labels, queries=57)
    part.keep(kept)
    for _ in range(120):
        assert torch.equal(whole.ask()[kept], part.ask())
        whole.tell(predictions(model, whole.ask()) != labels)
        part.tell(predictions(model, part.ask()) != labels[kept])
    assert torch.equal(whole.radius[kept], part.radius)
