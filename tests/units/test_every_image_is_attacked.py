"""A look that noise spoils does not spare an image the attack: nothing counts as robust that nobody attacked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from igd_ray.attacks.adaptive.two_pass import TwoPass
from igd_ray.attacks.apgd import APGD
from igd_ray.attacks.auto_attack import VERSIONS, AutoAttack, search_in_sequence
from igd_ray.attacks.base import MOST_LOOKS, Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.threat import Norm, ThreatModel
from igd_ray.units.base import execute
from tests.toys.counted_runs import prepare

# So much noise that many predictions change from look to look.
NOISY = {"sigma": "0.5", "n": 24, "shard_size": 24, "defenses": "loir-8"}


@pytest.mark.parametrize("attack", ["apgd-ce-3", "rays-12", "square-12", "audit-joint-loss-2"])
@pytest.mark.parametrize("mode", ["full", "cascade"])
def test_every_image_that_is_right_is_attacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, mode: str
) -> None:
    attacked: set[bytes] = set()
    left_alone = 0
    call = Attack.__call__

    def watched(self: Attack, model: Any, images: Tensor, labels: Tensor, **named: Any) -> Any:
        nonlocal left_alone
        result = call(self, model, images, labels, **named)
        if isinstance(model, TwoPass):  # the base model's transfers are attacks of their own
            left_alone += int((~result.attacked).sum())
            attacked.update(image.numpy().tobytes() for image in images[result.attacked])
        return result

    monkeypatch.setattr(Attack, "__call__", watched)
    prepared = prepare(tmp_path / "results", attacks=attack, mode=mode, **NOISY)
    prepared.run()
    unit = prepared.cells("loir-8")[attack]
    images, _ = prepared.context.images("test", 0, 24)
    position = {image_id: row for row, image_id in enumerate(unit.shard.ids)}
    right = [row for row in prepared.outcomes(unit) if row["status"] in ("robust", "broken")]
    assert left_alone > 0, "otherwise this would show nothing"
    assert right
    for row in right:
        assert images[position[str(row["image_id"])]].numpy().tobytes() in attacked


def test_an_image_that_nobody_attacked_is_broken_by_noise_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igd_ray.units.attack.MOST_LOOKS", 1)
    attacked: list[bool] = []
    call = Attack.__call__

    def watched(self: Attack, *given: Any, **named: Any) -> Any:
        result = call(self, *given, **named)
        attacked.append(bool(result.attacked))
        return result

    monkeypatch.setattr(Attack, "__call__", watched)
    prepared = prepare(tmp_path / "results", **{**NOISY, "n": 60, "shard_size": 1, "attacks": "apgd-ce-3"})
    ends: list[tuple[object, object]] = []
    for unit in prepared.units:
        attacked.clear()
        error = execute(unit, prepared.context).error
        if error:
            assert "were misclassified at 1 looks of apgd-ce-3, which left them alone" in error
            assert attacked == [False]
            ends.append(("error", None))
        elif attacked == [False]:
            (row,) = prepared.outcomes(unit)
            ends.append((row["status"], row["distance"]))
    # One that was wrong at first, too, counts as such.
    assert {*ends} == {("error", None), ("broken", 0.0), ("misclassified", 0.0)}


class Flickering(torch.nn.Module):
    """Answers wrongly at every second call, whatever it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        wrong = self.calls % 2 == 0
        return torch.tensor([[float(not wrong), float(wrong)]]).expand(len(images), 2) + 0 * images.sum()


def test_an_image_without_a_point_stays_for_the_next_attack_of_a_sequence() -> None:
    images, labels = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    searched = []

    class Silent(APGD):
        def search(self, target: CountedTarget, images: Tensor, *rest: Any) -> Points:
            searched.append(len(images))
            none = torch.zeros(len(images), dtype=torch.int64)
            return Points(images.clone(), [None] * len(images), none.bool(), none, none, none)

    target = CountedTarget(Flickering())
    points = search_in_sequence(
        [("first", Silent()), ("second", Silent())], target, images, labels, ThreatModel(Norm.LINF, 0.1), 0
    )
    assert searched == [3, 3], "the target's second answer is wrong, but nobody has given it a point"
    assert points.stages == [None] * 3
    assert not points.found.any()


class Coin(torch.nn.Module):
    """Two classes by the sign of an image's mean less one half, and by a coin where that is doubtful."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        side = (images.mean(dim=(1, 2, 3)) - 0.5) * 20
        side = side + 10 * torch.randn(len(images), generator=self.generator).sign()
        return torch.stack([side, -side], dim=1)


@pytest.mark.parametrize("version", ["standard", "rand"])
def test_no_attack_of_a_sequence_spares_an_image_that_noise_made_wrong_when_it_looked(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    images = torch.rand(16, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(16, dtype=torch.int64)
    climbed: dict[str, set[bytes]] = {}

    def stage(name: str) -> APGD:
        class Watched(APGD):
            def search(self, target: CountedTarget, images: Tensor, labels: Tensor, *rest: Any) -> Points:
                right = target(images).argmax(dim=1) == labels
                climbed.setdefault(name, set()).update(image.numpy().tobytes() for image in images[right])
                none = torch.zeros(len(images), dtype=torch.int64)
                return Points(images.clone(), [None] * len(images), none.bool(), none, none, none)

        return Watched()

    monkeypatch.setitem(VERSIONS, version, tuple((name, stage(name)) for name, _ in VERSIONS[version]))
    attack = AutoAttack(version)
    result = attack(Coin(), images, labels, threat=ThreatModel(Norm.LINF, 0.1), generator=torch.Generator())
    assert 0 < int(result.attacked.sum()) < 16, "the first look spares some, which the caller attacks again"
    expected = {image.numpy().tobytes() for image in images[result.attacked]}
    assert climbed == dict.fromkeys(attack.stages, expected)
    assert int(result.queries.sum()) <= 16 * (3 + MOST_LOOKS * attack.wasted_queries)
