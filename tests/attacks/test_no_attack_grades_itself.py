"""Attacks that are wrong by design: the base class refuses their points or corrects their verdict."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import Attack, AttackError, AttackResult
from igd_ray.attacks.base import Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.threat import DISTANCE_TOLERANCE, Norm, ThreatModel

EPSILON = 0.1


class Brightness(nn.Module):
    """Class 1 for images whose mean is above one half, otherwise class 0."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


class WrongAttack(Attack):
    """Returns what it is told to, as `points`, and says of them what it is told to."""

    def __init__(
        self,
        points: Callable[[Tensor], Tensor],
        *,
        found: bool = True,
        alternative: tuple[Callable[[Tensor], Tensor], bool] | None = None,
        queries: int = 0,
    ) -> None:
        self.points, self.found, self.alternative, self.queries = points, found, alternative, queries

    @property
    def settings(self) -> Mapping[str, object]:
        return {"attack": "wrong"}

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        return 1, 0

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        points = self.points(images)
        everywhere = torch.ones_like(labels, dtype=torch.bool)
        none = torch.zeros_like(labels)
        alternatives = {}
        if self.alternative:
            give, exists = self.alternative
            alternatives["other"] = give(images), everywhere & exists
        stages: list[str | None] = ["wrong" if self.found else None] * len(labels)
        return Points(points, stages, everywhere & self.found, none + self.queries, none, none, alternatives)


def dark_images() -> Tensor:
    """Four images of class 0 at 0.45, which EPSILON takes across one half."""
    return torch.full((4, 1, 2, 2), 0.45)


def attack_with(attack: Attack, images: Tensor | None = None, *, norm: Norm = Norm.LINF) -> AttackResult:
    images = dark_images() if images is None else images
    labels = torch.zeros(len(images), dtype=torch.int64)
    return attack(Brightness(), images, labels, threat=ThreatModel(norm, EPSILON), generator=Generator())


def unchanged(images: Tensor) -> Tensor:
    return images.clone()


def allowed(images: Tensor) -> Tensor:
    return images + EPSILON


def leaves_the_ball_in_one_pixel(images: Tensor) -> Tensor:
    points = images.clone()
    points[2, 0, 1, 1] += EPSILON + 1e-4
    return points


def with_pixel(value: float) -> Callable[[Tensor], Tensor]:
    def give(images: Tensor) -> Tensor:
        points = images.clone()
        points[1, 0, 0, 0] = value
        return points

    return give


FORBIDDEN = [
    pytest.param(leaves_the_ball_in_one_pixel, "left the ball: .* is 0.1001 away, epsilon is 0.1", id="outside"),
    pytest.param(lambda images: images - 2 * EPSILON, "left the ball", id="outside below"),
    pytest.param(with_pixel(-1e-6), r"left \[0, 1\]", id="below 0"),
    pytest.param(with_pixel(1 + 1e-6), r"left \[0, 1\]", id="above 1"),
    pytest.param(with_pixel(float("nan")), "NaN or infinity in 1 of 4", id="NaN"),
    pytest.param(with_pixel(float("inf")), "NaN or infinity in 1 of 4", id="infinite"),
    pytest.param(lambda images: images[:3], r"\[3, 1, 2, 2\].*expected .*\[4, 1, 2, 2\]", id="too few"),
    pytest.param(lambda images: images.flatten(1), r"\[4, 4\].*expected .*\[4, 1, 2, 2\]", id="flat"),
    pytest.param(lambda images: images.double(), "float64.*expected torch.float32", id="float64"),
]


@pytest.mark.parametrize(("points", "what"), FORBIDDEN)
def test_a_point_that_is_not_allowed_is_an_error(points: Callable[[Tensor], Tensor], what: str) -> None:
    with pytest.raises(AttackError, match=what) as error:
        attack_with(WrongAttack(points))
    assert "WrongAttack" in str(error.value)
    assert "'returned'" in str(error.value)


@pytest.mark.parametrize(("points", "what"), FORBIDDEN)
def test_a_further_point_is_checked_like_the_first(points: Callable[[Tensor], Tensor], what: str) -> None:
    with pytest.raises(AttackError, match=what) as error:
        attack_with(WrongAttack(unchanged, alternative=(points, True)))
    assert "'other'" in str(error.value)


def test_an_l2_ball_is_not_an_infinity_ball() -> None:
    # Every pixel moves by less than epsilon, the image by 0.12.
    with pytest.raises(AttackError, match=r"0\.12 away"):
        attack_with(WrongAttack(lambda images: images + 0.06), norm=Norm.L2)
    assert not attack_with(WrongAttack(lambda images: images + 0.049), norm=Norm.L2).broken.any()


def test_rounding_at_the_edge_of_the_ball_is_no_offence() -> None:
    images = torch.rand(64, 3, 8, 8, generator=Generator().manual_seed(0)) * 0.8
    result = attack_with(WrongAttack(allowed), images)
    assert EPSILON < float(result.distance.max()) <= EPSILON + DISTANCE_TOLERANCE


def test_a_search_that_writes_into_the_images_is_measured_against_the_originals() -> None:
    images = dark_images()

    def shift_in_place(given: Tensor) -> Tensor:
        return given.add_(3 * EPSILON)

    with pytest.raises(AttackError, match=r"left the ball: .* is 0\.3 away"):
        attack_with(WrongAttack(shift_in_place), images)
    assert torch.equal(images, dark_images())


def test_success_that_is_only_claimed_counts_as_robust() -> None:
    result = attack_with(WrongAttack(unchanged, found=True))
    assert result.stages == ("wrong",) * 4
    assert not result.broken.any()
    assert result.distance.tolist() == [0] * 4


def test_success_that_is_not_claimed_counts_as_broken() -> None:
    result = attack_with(WrongAttack(unchanged, alternative=(allowed, True)))
    assert result.broken.all()
    assert torch.equal(result.adversarial, allowed(dark_images()))
    assert torch.allclose(result.distance, torch.tensor(EPSILON))


@pytest.mark.parametrize("points", [lambda images: torch.ones_like(images), with_pixel(float("nan")), allowed])
def test_what_stands_where_no_point_exists_has_no_say(points: Callable[[Tensor], Tensor]) -> None:
    for attack in (WrongAttack(points, found=False), WrongAttack(unchanged, alternative=(points, False))):
        result = attack_with(attack)
        assert not result.broken.any()
        assert torch.equal(result.adversarial, dark_images())
        assert all(torch.equal(kept[~exists], dark_images()[~exists]) for kept, exists in result.points.values())


def test_a_misclassified_image_without_a_point_is_broken_as_it_is() -> None:
    bright = torch.full((2, 1, 2, 2), 0.9)
    result = attack_with(WrongAttack(unchanged, found=False), bright)
    assert result.broken.all()
    assert torch.equal(result.adversarial, bright)


def test_a_misclassified_image_whose_points_are_classified_rightly_is_not_broken() -> None:
    """A transfer's point may repair an image; the verdict is about the point, not about the image."""
    bright = torch.full((2, 1, 2, 2), 0.52)

    def darker(images: Tensor) -> Tensor:
        return images - 0.09

    assert not attack_with(WrongAttack(darker), bright).broken.any()
    # A further point that does not exist says nothing either.
    assert not attack_with(WrongAttack(darker, alternative=(allowed, False)), bright).broken.any()


def test_of_several_points_the_one_that_breaks_is_reported() -> None:
    def breaks_the_second(images: Tensor) -> Tensor:
        points = images.clone()
        points[1] += EPSILON
        return points

    def breaks_all_but_the_first(images: Tensor) -> Tensor:
        points = images.clone()
        points[1:] += 0.9 * EPSILON
        return points

    result = attack_with(WrongAttack(breaks_the_second, alternative=(breaks_all_but_the_first, True)))
    assert result.broken.tolist() == [False, True, True, True]
    assert torch.allclose(result.distance, torch.tensor([0, 1, 0.9, 0.9]) * EPSILON)


def test_passes_that_nobody_saw_cannot_be_claimed() -> None:
    with pytest.raises(AttackError, match=r"claims \(400, 0, 0\).*counted \(5, 5, 0\)"):
        attack_with(WrongAttack(unchanged, queries=100))


def test_passes_that_the_search_forgets_are_counted_all_the_same() -> None:
    def asks(images: Tensor) -> Tensor:
        return images

    class Forgetful(WrongAttack):
        def search(self, target, images, labels, threat, seed) -> Points:
            for _ in range(7):
                target(images)
            return super().search(target, images, labels, threat, seed)

    result = attack_with(Forgetful(asks))
    # One image to learn the number of classes, seven looks at four images, and the verdict on four points.
    assert int(result.queries.sum()) == 1 + 7 * 4 + 4
    assert int(result.queries.max() - result.queries.min()) <= 1


class DrawnVerdict(nn.Module):
    """Says class 1 at its first `wrong_calls` calls on more than one image, then class 0."""

    def __init__(self, wrong_calls: int) -> None:
        super().__init__()
        self.wrong_calls = wrong_calls

    def forward(self, images: Tensor) -> Tensor:
        wrong = self.wrong_calls > 0 and len(images) > 1
        self.wrong_calls -= wrong
        return torch.tensor([[0.0, 1.0] if wrong else [1.0, 0.0]]).expand(len(images), 2).clone()


def test_a_random_target_that_was_fooled_once_is_asked_again() -> None:
    class FoolsOnce(WrongAttack):
        def search(self, target, images, labels, threat, seed) -> Points:
            assert (target(images).argmax(dim=1) != labels).all()
            return super().search(target, images, labels, threat, seed)

    labels = torch.zeros(4, dtype=torch.int64)
    threat = ThreatModel(Norm.LINF, EPSILON)
    result = FoolsOnce(allowed)(DrawnVerdict(1), dark_images(), labels, threat=threat, generator=Generator())
    assert not result.broken.any()
    assert torch.equal(result.adversarial, allowed(dark_images()))
