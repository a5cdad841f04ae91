"""The demo model: the shipped weights do what the docstring says, and the training code works."""

import re

import pytest
import torch
from torch import Generator, nn

from igd_ray.data.digits import digits_images
from igd_ray.errors import InputError
from igd_ray.models import demo
from igd_ray.models.clip import DEMO_CONFIG
from igd_ray.models.demo import DEMO_EPSILON, DemoResNet, demo_model, training
from igd_ray.models.demo.training import clean_accuracy, pgd_accuracy, projected_gradient_descent, shifted


def stated(what: str) -> float:
    """Return the percentage that the docstring of `igd_ray.models.demo` states for `what`, as a fraction."""
    match = re.search(rf"{re.escape(what)}: ([\d.]+) %", demo.__doc__ or "")
    assert match, f"the docstring states nothing about {what!r}"
    return float(match.group(1)) / 100


def test_stated_accuracies_are_what_the_weights_give():
    model, test = demo_model(), digits_images("test")
    assert clean_accuracy(model, test.images, test.labels) == pytest.approx(stated("clean, 540 test images"), abs=1e-4)
    assert clean_accuracy(model, test.images[:128], test.labels[:128]) == pytest.approx(
        stated("clean, first 128 test images"), abs=1e-4
    )
    # Signs of tiny gradients differ between processors, so a few images may end otherwise.
    under_pgd = pgd_accuracy(model, test.images, test.labels)
    assert under_pgd == pytest.approx(stated("PGD, 50 steps, 540 test images"), abs=0.015)


@pytest.mark.slow
def test_stated_autoattack_accuracy():
    model, test = demo_model(), digits_images("test").select(slice(0, 128))
    robust = training.autoattack_accuracy(model, test.images, test.labels)
    assert robust == pytest.approx(stated("AutoAttack standard, first 128 test images"), abs=0.025)
    assert 0.3 <= robust <= 0.7


def test_model_is_ready_to_use():
    model = demo_model()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model.linear, nn.Linear)
    assert (model.linear.in_features, model.linear.out_features) == (64, 10)
    images = digits_images("test").images[:3].clone().requires_grad_()
    channels = {}
    hooks = [
        getattr(model, name).register_forward_hook(lambda _module, _args, out, name=name: channels.update({name: out}))
        for name in ("layer1", "layer2", "layer3")
    ]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    assert {name: out.shape[1] for name, out in channels.items()} == {"layer1": 16, "layer2": 32, "layer3": 64}
    assert logits.shape == (3, 10)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.flatten(1).abs().amax(dim=1).gt(0).all()


def test_normalisation_constants_are_those_of_the_training_split():
    pixels = digits_images("train").images.double()
    assert pixels.mean().item() == pytest.approx(demo.PIXEL_MEAN, abs=5e-5)
    assert pixels.std().item() == pytest.approx(demo.PIXEL_STD, abs=5e-5)


def test_wrong_image_shape_is_told():
    with pytest.raises(InputError, match=r"\[n, 1, 8, 8\], got \[2, 3, 32, 32\]"):
        demo_model()(torch.zeros(2, 3, 32, 32))


def test_shipped_weights_are_small():
    files = [demo.WEIGHTS_FILE, DEMO_CONFIG, DEMO_CONFIG.with_suffix(".safetensors")]
    assert sum(file.stat().st_size for file in files) < 4_000_000


def test_pgd_stays_in_the_ball_and_raises_the_loss():
    model, test = demo_model(), digits_images("test").select(slice(0, 64))
    adversarial = projected_gradient_descent(
        model, test.images, test.labels, epsilon=DEMO_EPSILON, steps=10, generator=Generator().manual_seed(1)
    )
    assert (adversarial - test.images).abs().max() <= DEMO_EPSILON + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    before = nn.functional.cross_entropy(model(test.images), test.labels)
    after = nn.functional.cross_entropy(model(adversarial), test.labels)
    assert after > before + 0.5


def test_shifted_moves_about_half_by_one_pixel():
    images = torch.zeros(400, 1, 8, 8)
    images[:, 0, 3, 4] = 1
    moved = shifted(images, generator=Generator().manual_seed(0))
    assert moved.shape == images.shape
    positions = moved.flatten(1).argmax(dim=1)
    rows, columns = positions // 8, positions % 8
    assert set(rows.tolist()) == {2, 3, 4}
    assert set(columns.tolist()) == {3, 4, 5}
    # Half are left alone, and a ninth of the others draw no shift.
    assert ((rows == 3) & (columns == 4)).double().mean().item() == pytest.approx(0.5 + 0.5 / 9, abs=0.08)


def test_training_learns_repeats_and_leaves_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(training, "RESNET_EPOCHS", 2)
    train = digits_images("train").select(slice(0, 512))
    state = torch.random.get_rng_state()
    first, second = training.train_resnet(train), training.train_resnet(train)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert clean_accuracy(first, train.images, train.labels) > 0.5
    assert not torch.equal(first.linear.weight, DemoResNet().linear.weight)
