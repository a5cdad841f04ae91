"""Our attacks against pyautoattack's own evaluation: the same points, image by image, from the same seeds."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyautoattack
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from torch import Generator, Tensor, nn

from igd_ray.attacks import APGD, FAB, Attack, AttackResult, AutoAttack, Square, TargetedAPGD, auto_attack
from igd_ray.data import load_images
from igd_ray.models import load_model
from igd_ray.models.demo import DEMO_EPSILON
from igd_ray.threat import Norm, ThreatModel

CIFAR_EPSILON = 8 / 255

# How many CIFAR images the full comparison takes. 200 is the number in ../shared/models/README.md.
PARITY_IMAGES = int(os.environ.get("IGD_PARITY_IMAGES", "0"))
README_IMAGES, README_ROBUST = 200, 65


@dataclass
class Subject:
    """A model and the images it is attacked on, as one shard."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    epsilon: float
    norm: Norm = Norm.LINF

    def __post_init__(self) -> None:
        # Strides are ambiguous where there is one channel; ours are these, and others round differently.
        self.images = self.images.flatten().view(self.images.shape)

    def ours(self, attack: Attack, seed: int) -> AttackResult:
        threat = ThreatModel(self.norm, self.epsilon)
        return attack(self.model, self.images, self.labels, threat=threat, generator=Generator().manual_seed(seed))

    def reference(self, **settings: object) -> pyautoattack.AutoAttack:
        norm = {Norm.LINF: "Linf", Norm.L2: "L2"}[self.norm]
        return pyautoattack.AutoAttack(self.model, eps=self.epsilon, norm=norm, **settings)

    def theirs(self, reference: pyautoattack.AutoAttack) -> tuple[Tensor, Tensor]:
        """Return the points of pyautoattack's evaluation, and whether it calls each image broken."""
        with torch.random.fork_rng(devices=[]):  # it seeds the global generator and leaves it so
            points, predictions = reference.run_standard_evaluation(
                self.images, self.labels, batch_size=len(self.images)
            )
        return points, predictions != self.labels


def cifar(shared: Path, n: int) -> Subject:
    model = load_model(
        f"{shared / 'models' / 'cifar_resnet.py'}:resnet18",
        weights=shared / "models" / "cifar10_resnet18_w16.safetensors",
        width=16,
    )
    data = load_images(f"parquet:{shared / 'data' / 'cifar10' / 'test.parquet'}", n=n)
    return Subject(model, data.images, data.labels, CIFAR_EPSILON)


@pytest.fixture(scope="module")
def digits() -> Subject:
    """48 digits, of which two carry a wrong label: misclassified images must not be attacked."""
    data = load_images("digits", n=48)
    labels = data.labels.clone()
    labels[[3, 30]] = (labels[[3, 30]] + 1) % 10
    return Subject(load_model("demo"), data.images, labels, DEMO_EPSILON)


@pytest.fixture(scope="module")
def few_digits(digits: Subject) -> Subject:
    """The first 16 of them, one with a wrong label, for attacks that make as many passes as published."""
    return replace(digits, images=digits.images[:16], labels=digits.labels[:16])


@pytest.fixture(scope="module")
def digits_l2(digits: Subject) -> Subject:
    return replace(digits, epsilon=0.8, norm=Norm.L2)


@pytest.fixture(params=["digits", "digits_l2"])
def ball(request: pytest.FixtureRequest) -> Subject:
    """The digits under either norm."""
    subject: Subject = request.getfixturevalue(request.param)
    return subject


@pytest.fixture(scope="module")
def four_cifar_images(shared: Path) -> Subject:
    return cifar(shared, 4)


@pytest.fixture(scope="module")
def eight_cifar_images(shared: Path) -> Subject:
    return cifar(shared, 8)


@pytest.fixture
def short_standard() -> Iterator[None]:
    """Shorter stages for our AutoAttack; `shorten` gives pyautoattack's the same."""
    with pytest.MonkeyPatch.context() as patch:
        stages = (
            ("apgd-ce", APGD("ce")),
            ("apgd-t", TargetedAPGD(classes=1)),
            ("fab-t", FAB(classes=3, steps=10)),
            ("square", Square(200)),
        )
        patch.setattr(auto_attack, "VERSIONS", {"standard": stages})
        yield


def shorten(reference: pyautoattack.AutoAttack) -> pyautoattack.AutoAttack:
    reference.apgd_targeted.n_target_classes = 1
    reference.fab.n_target_classes, reference.fab.n_iter = 3, 10
    reference.square.n_queries = 200
    return reference


def assert_same(result: AttackResult, points: Tensor, broken: Tensor) -> None:
    assert torch.equal(result.broken, broken)
    assert torch.equal(result.adversarial, points)
    assert broken.any(), "nothing was broken: the comparison shows nothing"
    assert not broken.all(), "everything was broken: the comparison shows little"


def test_standard_with_short_stages(digits: Subject, short_standard: None) -> None:
    result = digits.ours(AutoAttack("standard"), seed=17)
    assert_same(result, *digits.theirs(shorten(digits.reference(version="standard", seed=17))))
    assert "apgd-ce" in result.stages


@pytest.mark.slow
def test_standard_as_published(digits: Subject) -> None:
    result = digits.ours(AutoAttack("standard"), seed=0)
    assert_same(result, *digits.theirs(digits.reference(version="standard", seed=0)))
    assert {"apgd-ce", "apgd-t"} <= set(result.stages)


def test_rand_with_fewer_gradients(digits: Subject) -> None:
    reference = digits.reference(version="rand", seed=3)
    reference.apgd.eot_iter = 2
    stages = (("apgd-ce", APGD("ce", eot=2)), ("apgd-dlr", APGD("dlr", eot=2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "VERSIONS", {"rand": stages})
        assert_same(digits.ours(AutoAttack("rand"), seed=3), *digits.theirs(reference))


@pytest.mark.slow
def test_rand_as_published(few_digits: Subject) -> None:
    assert_same(
        few_digits.ours(AutoAttack("rand"), seed=3), *few_digits.theirs(few_digits.reference(version="rand", seed=3))
    )


def single(subject: Subject, name: str, seed: int) -> pyautoattack.AutoAttack:
    """Return a reference that runs one attack, with the restarts of "standard", which are not its defaults."""
    reference = subject.reference(version="custom", attacks=[name], seed=seed)
    reference.apgd.n_restarts = reference.apgd_targeted.n_restarts = 1
    reference.fab.n_restarts = reference.square.n_restarts = 1
    return reference


@pytest.mark.parametrize(("loss", "seed"), [("ce", 0), ("ce", 5), ("dlr", 0)])
def test_apgd_alone(ball: Subject, loss: str, seed: int) -> None:
    assert_same(ball.ours(APGD(loss), seed), *ball.theirs(single(ball, f"apgd-{loss}", seed)))


def test_apgd_on_cw_is_theirs_with_the_loss_of_croce_et_al(ball: Subject) -> None:
    """pyautoattack has no CW; Croce et al. (ICML 2022) take it from the two largest logits, sorted."""

    def margin(logits: Tensor, labels: Tensor) -> Tensor:
        ordered, classes = logits.sort(dim=1)
        right = (classes[:, -1] == labels).float()
        true = logits[torch.arange(len(labels)), labels]
        return -(true - ordered[:, -2] * right - ordered[:, -1] * (1 - right))

    reference = single(ball, "apgd-dlr", seed=2)
    reference.apgd.dlr_loss = margin
    assert_same(ball.ours(APGD("cw"), seed=2), *ball.theirs(reference))


def test_apgd_with_restarts(digits: Subject) -> None:
    reference = single(digits, "apgd-ce", seed=0)
    reference.apgd.n_restarts = 2
    assert_same(digits.ours(APGD("ce", restarts=2), seed=0), *digits.theirs(reference))


@pytest.mark.parametrize("restarts", [1, 2])
def test_targeted_apgd_alone(ball: Subject, restarts: int) -> None:
    reference = single(ball, "apgd-t", seed=0)
    reference.apgd_targeted.n_target_classes, reference.apgd_targeted.n_restarts = 2, restarts
    assert_same(ball.ours(TargetedAPGD(classes=2, restarts=restarts), seed=0), *ball.theirs(reference))


def test_fab_alone(ball: Subject) -> None:
    reference = single(ball, "fab-t", seed=0)
    reference.fab.n_target_classes, reference.fab.n_iter = 3, 30
    assert_same(ball.ours(FAB(classes=3, steps=30), seed=0), *ball.theirs(reference))


def test_fab_with_restarts(ball: Subject) -> None:
    """pyautoattack's evaluation runs targeted FAB once whatever it is told; its attack class does as told."""
    result = ball.ours(FAB(classes=2, steps=20, restarts=3), seed=4)
    fab = FABAttack_PT(
        ball.model,
        norm={Norm.LINF: "Linf", Norm.L2: "L2"}[ball.norm],
        n_restarts=3,
        n_iter=20,
        eps=ball.epsilon,
        seed=4,
        targeted=True,
        n_target_classes=2,
    )
    with torch.random.fork_rng(devices=[]):
        points = fab.perturb(ball.images.clone(), ball.labels.clone())
    assert_same(result, points, ball.model(points).argmax(dim=1) != ball.labels)
    assert int(result.broken.sum()) >= int(ball.ours(FAB(classes=2, steps=20), seed=4).broken.sum())


@pytest.mark.parametrize("restarts", [1, 2])
def test_square_alone(ball: Subject, restarts: int) -> None:
    reference = single(ball, "square", seed=5)
    reference.square.n_queries, reference.square.n_restarts = 300, restarts
    assert_same(ball.ours(Square(300, restarts=restarts), seed=5), *ball.theirs(reference))


def test_strong_with_fewer_restarts(digits: Subject) -> None:
    """More steps and restarts than standard; their evaluation runs targeted FAB once, so does ours here."""
    reference = shorten(digits.reference(version="standard", seed=6))
    shared = {"norm": "Linf", "eps": digits.epsilon, "seed": 6, "n_iter": 40, "n_restarts": 2, "device": "cpu"}
    reference.apgd = APGDAttack(digits.model, **shared, logger=reference.logger)
    reference.apgd_targeted = APGDAttack_targeted(digits.model, **shared, n_target_classes=1, logger=reference.logger)
    reference.square.n_restarts = 2
    stages = (
        ("apgd-ce", APGD("ce", steps=40, restarts=2)),
        ("apgd-t", TargetedAPGD(classes=1, steps=40, restarts=2)),
        ("fab-t", FAB(classes=3, steps=10)),
        ("square", Square(200, restarts=2)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "VERSIONS", {"strong": stages})
        assert_same(digits.ours(AutoAttack("strong"), seed=6), *digits.theirs(reference))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "attack"), [("apgd-t", TargetedAPGD()), ("fab-t", FAB()), ("square", Square())], ids=str
)
def test_alone_as_published(few_digits: Subject, name: str, attack: Attack) -> None:
    assert_same(few_digits.ours(attack, seed=1), *few_digits.theirs(single(few_digits, name, seed=1)))


def test_cifar_apgd(four_cifar_images: Subject) -> None:
    assert_same(
        four_cifar_images.ours(APGD("ce"), seed=0),
        *four_cifar_images.theirs(single(four_cifar_images, "apgd-ce", seed=0)),
    )


def test_cifar_square(four_cifar_images: Subject) -> None:
    reference = single(four_cifar_images, "square", seed=0)
    reference.square.n_queries = 50
    assert_same(four_cifar_images.ours(Square(50), seed=0), *four_cifar_images.theirs(reference))


@pytest.mark.slow
def test_cifar_targeted_apgd(four_cifar_images: Subject) -> None:
    reference = single(four_cifar_images, "apgd-t", seed=0)
    reference.apgd_targeted.n_target_classes = 2
    assert_same(four_cifar_images.ours(TargetedAPGD(classes=2), seed=0), *four_cifar_images.theirs(reference))


@pytest.mark.slow
def test_cifar_fab(four_cifar_images: Subject) -> None:
    reference = single(four_cifar_images, "fab-t", seed=0)
    reference.fab.n_target_classes, reference.fab.n_iter = 2, 20
    assert_same(four_cifar_images.ours(FAB(classes=2, steps=20), seed=0), *four_cifar_images.theirs(reference))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("apgd-ce", APGD("ce", steps=40)),
        ("apgd-t", TargetedAPGD(steps=10)),
        ("fab-t", FAB(steps=5)),
        ("square", Square(200)),
    ],
    ids=str,
)
def test_cifar_alone_with_all_targets_and_fewer_steps(eight_cifar_images: Subject, name: str, attack: Attack) -> None:
    subject = eight_cifar_images
    reference = single(subject, name, seed=5)
    # Their APGD derives more than the number of steps from it when it is made.
    shared = {"norm": "Linf", "eps": subject.epsilon, "device": "cpu", "logger": reference.logger}
    reference.apgd = APGDAttack(subject.model, n_iter=40, n_restarts=1, **shared)
    reference.apgd_targeted = APGDAttack_targeted(subject.model, n_iter=10, n_target_classes=9, **shared)
    reference.fab.n_iter, reference.square.n_queries = 5, 200
    assert_same(subject.ours(attack, seed=5), *subject.theirs(reference))


@pytest.mark.slow
@pytest.mark.skipif(
    not PARITY_IMAGES,
    reason="runs in tests/parity/test_evaluate_parity.py; IGD_PARITY_IMAGES names how many images to take here",
)
def test_cifar_standard_as_published(shared: Path) -> None:
    """One shard of IGD_PARITY_IMAGES images; with 200, the numbers of ../shared/models/README.md."""
    subject = cifar(shared, PARITY_IMAGES)
    result = subject.ours(AutoAttack("standard"), seed=0)
    _, broken = subject.theirs(subject.reference(version="standard", seed=0))
    assert torch.equal(result.broken, broken)
    if PARITY_IMAGES == README_IMAGES:
        assert int((~result.broken).sum()) == README_ROBUST
