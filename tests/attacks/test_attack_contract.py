"""What every attack owes its caller, whatever it does inside."""

from collections.abc import Iterator

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    Attack,
    AttackError,
    AttackResult,
    AutoAttack,
    EoTSquare,
    RayS,
    Square,
    TargetedAPGD,
    TransferAPGD,
    TransferEOT,
    TransferTargetedAPGD,
    auto_attack,
)
from igd_ray.attacks.base import GRADIENT, POOLED, QUERY
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack
from tests.toys.counting import PassCounter, hooks_of
from tests.toys.models import FirstClasses

# AutoAttack's constructor takes no budget; these replace its stages here. The published ones are compared with
# pyautoattack in tests/parity.
SHORT_VERSIONS = {
    "standard": (
        ("apgd-ce", APGD("ce", steps=3)),
        ("apgd-t", TargetedAPGD(classes=2, steps=5)),
        ("fab-t", FAB(classes=2, steps=5)),
        ("square", Square(20)),
    ),
    "rand": (("apgd-ce", APGD("ce", steps=3, eot=2)), ("apgd-dlr", APGD("dlr", steps=5, eot=2))),
    "strong": (
        ("apgd-ce", APGD("ce", steps=3, restarts=2)),
        ("apgd-t", TargetedAPGD(classes=2, steps=3, restarts=2)),
        ("fab-t", FAB(classes=2, steps=5, restarts=2)),
        ("square", Square(10, restarts=2)),
    ),
}

ATTACKS = [
    APGD("ce", steps=6),
    APGD("cw", steps=6),
    APGD("dlr", steps=4, restarts=2, eot=3),
    TargetedAPGD(classes=3, steps=5),
    APGD("ce", steps=6).on_engine(POOLED),
    APGD("dlr", steps=4, restarts=2, eot=3).on_engine(POOLED).collapsed(),
    TargetedAPGD(classes=3, steps=5).on_engine(POOLED),
    TargetedAPGD(classes=3, steps=6).on_engine(POOLED).for_classes(3),
    FAB(classes=3, steps=6),
    FAB(classes=2, steps=6, restarts=2),
    Square(30),
    Square(10, restarts=2),
    Square(10, restarts=2).on_engine(POOLED),
    EoTSquare(20, eot=2),
    RayS(300),
    PGD(6),
    PGD(3, step_size=0.5, restarts=2, random_start=False),
    FGSM(),
    TransferAPGD("ce", steps=6),
    TransferAPGD("cw", steps=6),
    TransferAPGD("dlr", steps=6),
    TransferTargetedAPGD(steps=5),
    TransferEOT(steps=5),
    TransferEOT(steps=3, eot=3, collapse=False),
    APGD("dlr", steps=4, restarts=2, eot=3).collapsed(),
    TargetedAPGD(classes=3, steps=5, eot=2).collapsed(),
    TargetedAPGD(classes=3, steps=6).for_classes(3),
    EoTSquare(20, eot=2).collapsed(),
    AutoAttack("standard"),
    AutoAttack("standard").for_classes(3),
    AutoAttack("standard").on_engine(POOLED).collapsed(),
    AutoAttack("rand").on_engine(POOLED),
    AutoAttack("rand"),
    AutoAttack("rand").collapsed(),
    AutoAttack("strong"),
]


def attacks(*, without: tuple[type[Attack], ...] = (), collapsed: bool = True) -> pytest.MarkDecorator:
    """Every attack but those of the types `without` and, if so, those that take their target for deterministic."""
    chosen = [
        attack for attack in ATTACKS if not isinstance(attack, without) and (collapsed or attack.collapsed_eot == 1)
    ]
    return pytest.mark.parametrize("attack", chosen, ids=repr)


every_attack = attacks()
TRANSFERS = (TransferAPGD, TransferEOT, TransferTargetedAPGD)

# Images whose label is made wrong, so that the model misclassifies them without any attack.
MISLABELLED = [2, 4]


@pytest.fixture(scope="module", autouse=True)
def short_autoattack() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "VERSIONS", SHORT_VERSIONS)
        yield


@pytest.fixture(scope="module")
def labels(digits: tuple[Tensor, Tensor]) -> Tensor:
    labels = digits[1].clone()
    labels[MISLABELLED] = (labels[MISLABELLED] + 1) % 10
    return labels


@pytest.fixture(scope="module")
def results(model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> dict[str, AttackResult]:
    return {}


@pytest.fixture
def result(attack: Attack, results, model, images, labels, threat) -> AttackResult:
    """The attack on the demo model with seed 0, computed once."""
    if repr(attack) not in results:
        results[repr(attack)] = run_attack(attack, model, images, labels, threat)
    return results[repr(attack)]


def assert_equal(one: AttackResult, other: AttackResult) -> None:
    for name in ("adversarial", "broken", "distance", "queries", "forwards", "backwards", "found"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.stages == other.stages
    assert one.points.keys() == other.points.keys()
    for name, (points, exists) in one.points.items():
        assert torch.equal(points, other.points[name][0]), name
        assert torch.equal(exists, other.points[name][1]), name


@every_attack
def test_every_point_is_an_image_within_epsilon(
    result: AttackResult, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    assert result.points
    for points, exists in [(result.adversarial, torch.ones_like(labels, dtype=torch.bool)), *result.points.values()]:
        assert points.shape == images.shape
        assert points.dtype == torch.float32
        assert not points.requires_grad
        assert exists.dtype == torch.bool
        assert torch.isfinite(points[exists]).all()
        assert points[exists].min() >= 0
        assert points[exists].max() <= 1
        assert (points[exists] - images[exists]).abs().max() <= threat.epsilon + 1e-6


@every_attack
def test_broken_is_what_the_model_says_of_the_points(
    result: AttackResult, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    assert torch.equal(result.broken, model(result.adversarial).argmax(dim=1) != labels)
    # An image without any point stands for itself.
    by_any_point = (model(images).argmax(dim=1) != labels) & ~result.found
    for points, exists in result.points.values():
        by_any_point |= (model(points).argmax(dim=1) != labels) & exists
    assert torch.equal(result.broken, by_any_point)


@every_attack
def test_the_attack_breaks_some_images_and_leaves_some(result: AttackResult) -> None:
    """Otherwise most of this file would hold for an attack that does nothing."""
    attacked = torch.ones_like(result.broken)
    attacked[MISLABELLED] = False
    assert 0 < int(result.broken[attacked].sum()) < int(attacked.sum())


@every_attack
def test_distances_are_those_of_the_points(result: AttackResult, images: Tensor) -> None:
    by_hand = [float((point - image).abs().max()) for point, image in zip(result.adversarial, images, strict=True)]
    assert result.distance.tolist() == by_hand


# A transfer attacks misclassified images, too; see test_transfer.py.
@attacks(without=TRANSFERS)
def test_misclassified_images_are_broken_without_being_attacked(result: AttackResult, images: Tensor) -> None:
    assert result.broken[MISLABELLED].all()
    assert torch.equal(result.adversarial[MISLABELLED], images[MISLABELLED])
    assert result.distance[MISLABELLED].tolist() == [0] * len(MISLABELLED)
    assert not result.found[MISLABELLED].any()
    assert [result.stages[row] for row in MISLABELLED] == [None] * len(MISLABELLED)


@every_attack
def test_a_stage_is_named_exactly_where_a_point_was_found(result: AttackResult, images: Tensor) -> None:
    assert [stage is not None for stage in result.stages] == result.found.tolist()
    moved = (result.adversarial != images).flatten(1).any(dim=1)
    assert torch.equal(moved, result.found)


@every_attack
def test_the_seed_alone_decides(
    attack: Attack, result: AttackResult, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    used = Generator().manual_seed(0)
    torch.rand(7, generator=used)
    state = used.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)
        again = attack(model, images, labels, threat=threat, generator=used)
    assert_equal(result, again)
    assert torch.equal(used.get_state(), state)


# FAB and FGSM start at the image itself, as PGD does here where it does not; RayS draws nothing at random.
@pytest.mark.parametrize(
    "attack",
    [
        one
        for one in ATTACKS
        if not isinstance(one, FAB | FGSM | RayS) and (not isinstance(one, PGD) or one.random_start)
    ],
    ids=repr,
)
def test_another_seed_gives_other_points(
    attack: Attack, result: AttackResult, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    assert not torch.equal(run_attack(attack, model, images, labels, threat, seed=1).adversarial, result.adversarial)


@every_attack
def test_nothing_outside_is_changed(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    global_state = torch.random.get_rng_state()
    before = images.clone(), labels.clone(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run_attack(attack, model, images, labels, threat)
    assert torch.equal(torch.random.get_rng_state(), global_state)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    assert all(torch.equal(tensor, before[2][name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks_of(model) == 0


class Grey(nn.Module):
    """Takes three channels, of which the base model sees the mean."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        # Permuted on the way in, as a channels-last model does, so that gradients come back non-contiguous.
        return self.model(images.permute(0, 2, 3, 1).contiguous().mean(dim=3, keepdim=True).permute(0, 3, 1, 2))


@every_attack
def test_memory_layout_does_not_matter(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    images, labels = images[-5:], labels[-5:]
    plain = images.expand(-1, 3, -1, -1).contiguous()
    strided = torch.stack([plain, torch.zeros_like(plain)], dim=1)[:, 0]
    expanded = images.expand(-1, 3, -1, -1)
    expected = run_attack(attack, Grey(model), plain, labels, threat)
    assert expected.found.any()
    for other in (plain.to(memory_format=torch.channels_last), strided, expanded):
        assert not other.is_contiguous()
        assert_equal(expected, run_attack(attack, Grey(model), other, labels, threat))


@every_attack
def test_the_strides_of_a_single_channel_do_not_matter(
    attack: Attack, result: AttackResult, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    """Both layouts count as contiguous, and convolutions round differently on them."""
    for strides in ((64, 64, 8, 1), (64, 1, 8, 1)):
        other = images.flatten().as_strided(images.shape, strides)
        assert other.is_contiguous()
        assert_equal(result, run_attack(attack, model, other, labels, threat))


@every_attack
@pytest.mark.parametrize("row", [0, MISLABELLED[0]], ids=["correct", "misclassified"])
def test_one_image_is_a_batch(
    attack: Attack, row: int, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    alone = run_attack(attack, model, images[row : row + 1], labels[row : row + 1], threat)
    assert alone.adversarial.shape == (1, 1, 8, 8)
    assert torch.equal(alone.broken, model(alone.adversarial).argmax(dim=1) != labels[row : row + 1])


@every_attack
def test_a_batch_that_is_misclassified_throughout_is_broken_throughout(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    wrong = run_attack(attack, model, images[MISLABELLED], labels[MISLABELLED], threat)
    assert wrong.broken.all()


@every_attack
@pytest.mark.parametrize("value", [float("nan"), -1e-3, 1.001, float("inf")])
def test_a_pixel_that_is_none_is_refused(
    attack: Attack, value: float, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    damaged = images.clone()
    damaged[5, 0, 2, 2] = value
    with pytest.raises(InputError, match=r"pixels must lie in \[0, 1\] and not be NaN"):
        run_attack(attack, model, damaged, labels, threat)


@every_attack
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_images_of_another_type_are_refused(
    attack: Attack, dtype: torch.dtype, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    with pytest.raises(InputError, match=r"expected float"):
        run_attack(attack, model, images.to(dtype), labels, threat)


@every_attack
def test_images_of_another_shape_are_refused(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    with pytest.raises(InputError, match=r"expected float images \[n, C, H, W\]"):
        run_attack(attack, model, images[0], labels[:1], threat)
    with pytest.raises(InputError, match=r"at least one image"):
        run_attack(attack, model, images[:0], labels[:0], threat)


@every_attack
def test_labels_that_are_none_are_refused(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    for wrong in (labels.int(), labels.float(), labels[:-1], labels[:, None]):
        with pytest.raises(InputError, match=r"expected int64 labels \[12\]"):
            run_attack(attack, model, images, wrong, threat)
    for value in (-1, -100, 10):  # −100 is the label that PyTorch's cross-entropy ignores
        wrong = labels.clone()
        wrong[4] = value
        with pytest.raises(InputError, match=r"labels must lie in 0…9, the model's classes"):
            run_attack(attack, model, images, wrong, threat)


def assert_counts(attack: Attack, target: nn.Module, result: AttackResult, counter: PassCounter, passes: int) -> None:
    images = len(result.broken)
    for counts in (result.queries, result.forwards, result.backwards):
        assert counts.dtype == torch.int64
        assert counts.shape == (images,)
        assert counts.min() >= 0
    assert int(result.forwards.sum()) == counter.forwards
    assert int(result.backwards.sum()) == counter.backwards
    assert int(result.queries.sum()) * passes == counter.forwards
    queries, gradients = attack.most_passes(10)
    # The bound speaks of the search; the verdict on each point kept comes on top.
    assert counter.forwards <= images * (queries + len(result.points)) * passes
    assert counter.backwards <= images * gradients * passes
    assert len(result.points) == attack.most_points
    # No attack that follows gradients comes without them, no other with them.
    assert (counter.backwards > 0) == (GRADIENT in attack.ways)


@every_attack
def test_counts_are_the_passes_that_the_base_model_ran(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    with PassCounter(model.conv1) as counter:
        result = run_attack(attack, model, images, labels, threat)
    assert_counts(attack, model, result, counter, passes=1)


@every_attack
def test_counts_of_one_image_stay_within_the_bound(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    with PassCounter(model.conv1) as counter:
        result = run_attack(attack, model, images[:1], labels[:1], threat)
    assert_counts(attack, model, result, counter, passes=1)


DEFENSES = [
    ({"sigma": 0.07, "draws": 2}, 3),
    ({"sigma": 0.07, "draws": 1}, 2),
    ({"sigma": 0.0}, 1),  # the first pass's activation serves the second
]


@attacks(collapsed=False)
@pytest.mark.parametrize(("settings", "passes"), DEFENSES, ids=["two draws", "one draw", "no noise"])
def test_counts_on_a_defense_are_passes_of_its_base_model(
    attack: Attack, settings: dict, passes: int, defended, model, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    target = defended(**settings)
    with PassCounter(model.conv1) as counter:
        result = run_attack(attack, target, images, labels, threat)
    assert_counts(attack, target, result, counter, passes)


@attacks(collapsed=False)
def test_a_random_defense_keeps_the_contract_and_its_noise_moves_on(
    attack: Attack, defended, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    target = defended(sigma=0.07)
    global_state, noise_state = torch.random.get_rng_state(), target.generator.get_state()
    result = run_attack(attack, target, images, labels, threat)
    assert torch.equal(torch.random.get_rng_state(), global_state)
    assert not torch.equal(target.generator.get_state(), noise_state)
    assert (result.adversarial - images).abs().max() <= threat.epsilon + 1e-6
    # The same noise and the same seed give the same result; the noise is the defense's, never the attack's.
    assert_equal(result, run_attack(attack, defended(sigma=0.07), images, labels, threat))


@every_attack
def test_a_deterministic_defense_is_judged_by_its_own_answers(
    attack: Attack, defended, images: Tensor, labels: Tensor, threat: ThreatModel
) -> None:
    target = defended(sigma=0.0)
    result = run_attack(attack, target, images, labels, threat)
    assert torch.equal(result.broken, target(result.adversarial).argmax(dim=1) != labels)


def fits(attack: Attack, norm: Norm) -> bool:
    """Whether an attack takes balls of `norm`: RayS and the engine's Square take one."""
    try:
        attack.check(10, norm)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if fits(attack, Norm.L2)], ids=repr)
def test_the_l2_ball_holds_as_well(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    threat = ThreatModel(Norm.L2, 0.8)
    result = run_attack(attack, model, images, labels, threat)
    lengths = (result.adversarial - images).double().flatten(1).square().sum(dim=1).sqrt()
    assert lengths.max() <= 0.8 + 1e-6
    assert torch.allclose(result.distance.double(), lengths, atol=1e-6)
    assert torch.equal(result.broken, model(result.adversarial).argmax(dim=1) != labels)


def test_rays_refuses_the_l2_ball(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    for refused in (
        lambda: RayS(3).check(10, Norm.L2),
        lambda: run_attack(RayS(3), model, images, labels, ThreatModel(Norm.L2, 0.8)),
    ):
        with pytest.raises(InputError, match="RayS searches balls of the norm linf only, not l2"):
            refused()


def test_a_random_target_is_not_taken_for_a_deterministic_one(defended, images, labels, threat) -> None:
    with pytest.raises(AttackError, match="two passes over the same images differ by"):
        run_attack(TransferEOT(steps=2), defended(sigma=0.07), images, labels, threat)


def test_an_ensemble_works_in_the_ways_of_its_stages() -> None:
    assert AutoAttack("standard").ways == AutoAttack("strong").ways == {GRADIENT, QUERY}
    assert AutoAttack("rand").ways == {GRADIENT}


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: APGD("cv"), "loss must be one of ce, cw, dlr, not 'cv'"),
        (lambda: APGD("CE"), "did you mean|loss must be"),
        (lambda: APGD(steps=0), "steps must be at least 1, not 0"),
        (lambda: APGD(restarts=0), "restarts must be at least 1, not 0"),
        (lambda: APGD(eot=-1), "eot must be at least 1, not -1"),
        (lambda: TransferAPGD(steps=0), "steps must be at least 1, not 0"),
        (lambda: TransferTargetedAPGD(targets=0), "targets must be at least 1, not 0"),
        (lambda: TransferEOT(eot=0), "eot must be at least 1, not 0"),
        (lambda: RayS(0), "queries must be at least 1, not 0"),
        (lambda: PGD(0), "steps must be at least 1, not 0"),
        (lambda: PGD(restarts=0), "restarts must be at least 1, not 0"),
        (lambda: PGD(step_size=0), "step_size must be positive, in units of epsilon, not 0"),
        (lambda: PGD(step_size=float("nan")), "step_size must be positive"),
        (lambda: PGD(step_size=float("inf")), "step_size must be positive"),
        (lambda: TargetedAPGD(classes=0), "classes must be at least 1, not 0"),
        (lambda: FAB(classes=0), "classes must be at least 1, not 0"),
        (lambda: FAB(steps=0), "steps must be at least 1, not 0"),
        (lambda: Square(0), "queries must be at least 1, not 0"),
        (lambda: Square(restarts=0), "restarts must be at least 1, not 0"),
        (lambda: AutoAttack("standart"), "did you mean 'standard'"),
    ],
)
def test_settings_that_cannot_work_are_refused(build, what: str) -> None:
    with pytest.raises(InputError, match=what):
        build()


def test_no_two_attacks_have_the_same_settings() -> None:
    settings = [str(dict(attack.settings)) for attack in ATTACKS]
    assert len(set(settings)) == len(ATTACKS)


@pytest.mark.parametrize(
    ("attack", "needs"),
    [
        (APGD("dlr", steps=2), 3),
        (TransferAPGD("dlr", steps=2), 3),
        (TargetedAPGD(steps=2), 4),
        (APGD("ce", steps=2), 2),
        (FAB(steps=2), 2),
        (APGD("cw", steps=2), 2),
        (Square(3), 2),
        (RayS(3), 2),
        (PGD(2), 2),
        (FGSM(), 2),
        (TransferAPGD("cw", steps=2), 2),
        # These have a loss for fewer classes.
        (AutoAttack("standard"), 2),
        (AutoAttack("rand"), 2),
        (TransferTargetedAPGD(steps=2), 2),
        (TransferEOT(steps=2), 2),
    ],
    ids=repr,
)
def test_classes_that_a_loss_needs(attack: Attack, needs: int, model: nn.Module, images: Tensor, threat) -> None:
    labels = torch.zeros(len(images), dtype=torch.int64)
    attack.check(needs)
    with PassCounter(model.conv1) as counter:
        result = run_attack(attack, FirstClasses(model, needs), images, labels, threat)
    queries, gradients = attack.most_passes(needs)
    assert counter.forwards <= len(images) * (queries + len(result.points))
    assert counter.backwards <= len(images) * gradients
    if needs > 2:
        with pytest.raises(InputError, match=f"at least {needs} classes"):
            attack.check(needs - 1)
        with pytest.raises(InputError, match=f"at least {needs} classes"):
            run_attack(attack, FirstClasses(model, needs - 1), images, labels, threat)
