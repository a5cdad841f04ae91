"""The engine's APGD walks as pyautoattack's does, and each image for itself, however images are batched."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from igd_ray.attacks import APGD, Attack, AutoAttack, TargetedAPGD
from igd_ray.attacks.base import POOLED
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.engine.apgd import Walk, checkpoint_windows, climb
from igd_ray.attacks.engine.losses import TARGETED, UNTARGETED
from igd_ray.attacks.pyautoattack import NORM_NAMES, SILENT, MarginAPGD, MarginTargetedAPGD
from igd_ray.threat import Norm, ThreatModel

SHAPE = (1, 6, 6)
THREATS = [ThreatModel(Norm.LINF, 0.08), ThreatModel(Norm.L2, 0.4)]

# Where a label comes third, DLR is exactly 1 and its gradient nothing but rounding: a ball that does not reach so far.
NARROW = [ThreatModel(Norm.LINF, 0.04), ThreatModel(Norm.L2, 0.2)]


class Small(nn.Module):
    """A random network in float64, so that a batch's rounding moves nothing; remembers the points it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 6)).double()
            for parameter in self.layers.parameters():
                parameter.data *= 3
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


def theirs(small: Small, loss: str, target: Tensor | None, image: Tensor, start: Tensor, threat: ThreatModel, eot: int):
    """The points at which pyautoattack's APGD asks, step by step."""
    known = {
        "ce": APGDAttack,
        "dlr": APGDAttack,
        "cw": MarginAPGD,
        "targeted dlr": APGDAttack_targeted,
        "targeted margin": MarginTargetedAPGD,
    }[loss]
    named = {} if target is not None else {"loss": "dlr" if loss == "cw" else loss}
    attack = known(
        small, n_iter=100, norm=NORM_NAMES[threat.norm], eps=threat.epsilon, eot_iter=eot, device="cpu", logger=SILENT,
        **named,
    )  # fmt: skip
    attack.init_hyperparam(image)
    attack.y_target = target
    label = small(image).argmax(dim=1)
    small.asked.clear()
    attack.attack_single_run(image, label, x_init=start)
    return torch.cat(small.asked[::eot])


@pytest.mark.parametrize("threat", NARROW, ids=str)
@pytest.mark.parametrize("eot", [1, 3])
@pytest.mark.parametrize("loss", ["ce", "cw", "dlr", "targeted dlr", "targeted margin"])
def test_it_asks_at_pyautoattacks_points_step_by_step(small: Small, loss: str, eot: int, threat: ThreatModel) -> None:
    generator = torch.Generator().manual_seed(7)
    halvings = 0
    for _ in range(3):
        image = torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64)
        offset = threat.epsilon / 6 * (2 * torch.rand(image.shape, generator=generator, dtype=torch.float64) - 1)
        start = (image + offset).clamp(0, 1)
        ranked = small(image).argsort(dim=1, descending=True)
        targeted = loss.startswith("targeted")
        target = ranked[:, 2] if targeted else None
        expected = theirs(small, loss, target, image, start, threat, eot)
        small.asked.clear()
        function = TARGETED[loss.removeprefix("targeted ")] if targeted else UNTARGETED[loss]
        climb(
            CountedTarget(small),
            image,
            ranked[:, 0],
            threat,
            Walk(function, steps=100, eot=eot),
            starts=lambda rows, start=start: start,
            attacked=[0],
            targets=None if target is None else target[:, None],
        )
        asked = torch.cat([points[:1] for points in small.asked])
        assert asked.shape == (101, *SHAPE)
        assert (asked - expected).abs().max() < 1e-6
        lengths = [threat.norm.distance(after[None], before[None]).item() for before, after in pairwise(asked)]
        halvings += lengths[-1] < threat.epsilon / 4
    # A run whose step size is never halved would not have shown that it is halved at the same steps.
    assert halvings > 0


@pytest.mark.parametrize("steps", [1, 5, 20, 100, 200])
def test_checkpoints_are_those_that_pyautoattacks_loop_comes_to(steps: int) -> None:
    attack = APGDAttack(None, n_iter=steps, eps=0.1)
    window, since, expected = attack.n_iter_2, 0, []
    for _ in range(steps):
        since += 1
        expected.append(window if since == window else 0)
        if since == window:
            window, since = max(window - attack.size_decr, attack.n_iter_min), 0
    assert checkpoint_windows(steps).tolist() == expected


ATTACKS = [
    APGD("ce", steps=15, restarts=2),
    APGD("dlr", steps=12, eot=2),
    TargetedAPGD(classes=3, steps=12),
    TargetedAPGD(classes=2, steps=8, restarts=2),
]


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_an_image_has_one_outcome_in_shards_of_any_size_and_in_any_order(
    attack: Attack, threat: ThreatModel, deterministic: bool, small: Small, images: Tensor, labels: Tensor
) -> None:
    attack = attack.on_engine(POOLED)
    attack = attack.collapsed() if deterministic else attack
    whole = outcome(attack, small, images, labels, threat, [range(64)])
    assert 0 < whole[0].sum() < 64
    shuffled = np.random.default_rng(0).permutation(64).tolist()
    for shards in ([*pieces(range(16), 1), *pieces(range(16, 64), 8)], pieces(shuffled, 64), pieces(shuffled, 7)):
        broken, points = outcome(attack, small, images, labels, threat, shards)
        assert torch.equal(broken, whole[0])
        assert (points - whole[1]).abs().max() < 1e-6


def test_the_size_of_the_pool_changes_no_point(small: Small, images: Tensor, labels: Tensor) -> None:
    walk = Walk(TARGETED["dlr"], steps=12, rows=3, ends_when_broken=True)
    ranked = small(images).argsort(dim=1, descending=True)

    def starts(rows: Sequence) -> Tensor:
        return images[[row.image for row in rows]]

    points = []
    for capacity in (1, 5, 500):
        of_this_size = replace(walk, capacity=capacity)
        found, _ = climb(
            CountedTarget(small), images, labels, THREATS[0], of_this_size, starts=starts, attacked=range(64),
            targets=ranked[:, 1:4],
        )  # fmt: skip
        points.append(found)
    assert (points[0] != images).flatten(1).any(dim=1).sum() > 5
    for other in points[1:]:
        assert (other - points[0]).abs().max() < 1e-6


def test_a_broken_image_costs_no_more_passes(small: Small, images: Tensor, labels: Tensor) -> None:
    pooled = APGD("ce", steps=50).on_engine(POOLED)
    generator = torch.Generator().manual_seed(0)
    results = [
        each(small, images, labels, threat=THREATS[0], generator=generator) for each in (pooled, pooled.collapsed())
    ]
    assert torch.equal(results[0].broken, results[1].broken)
    standing = int((~results[0].broken).sum())
    assert results[0].backwards.sum() == 64 * 51
    assert standing * 51 < results[1].backwards.sum() < (standing + 0.5 * (64 - standing)) * 51


def test_autoattack_says_which_engine_searched_at_which_stage() -> None:
    attack = AutoAttack().on_engine(POOLED)
    assert attack.searched_by == {
        "apgd-ce": "pooled", "apgd-t": "pooled", "fab-t": "pyautoattack", "square": "pooled",
    }  # fmt: skip
    assert attack.settings != AutoAttack().settings
    assert AutoAttack().on_engine("pyautoattack").settings == AutoAttack().settings


def pieces(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def outcome(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    shards: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """Which images the attack breaks, and its points, where it takes the images shard by shard."""
    broken, points = torch.zeros(len(images), dtype=torch.bool), images.clone()
    for shard in shards:
        rows = torch.tensor(list(shard))
        generator = torch.Generator().manual_seed(11)
        result = attack(model, images[rows], labels[rows], threat=threat, generator=generator)
        broken[rows], points[rows] = result.broken, result.adversarial
    return broken, points
