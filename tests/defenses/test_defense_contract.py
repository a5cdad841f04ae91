"""What every defense owes its caller, whatever it does inside."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from igd_ray.attacks import APGD
from igd_ray.attacks.counting import CountedTarget
from igd_ray.data import load_images
from igd_ray.defenses import (
    AntiAdversaryDefense,
    ConfidenceMaskingDefense,
    Defense,
    HedgeDefense,
    InterpretabilityGuidedDefense,
    SmoothingOnly,
    class_masks,
)
from igd_ray.defenses.sodef import SodefDefense, SodefHead, SodefTraining
from igd_ray.defenses.sodef_training import initial_state
from igd_ray.errors import InputError
from igd_ray.models import find_layer, load_model
from igd_ray.threat import Norm, ThreatModel
from tests.toys.counting import hooks_of
from tests.toys.models import tiny_images, tiny_model

Build = Callable[[nn.Module, Tensor, Generator], Defense]


class Case(NamedTuple):
    """A defense to test.

    Attributes:
        name: the test's id.
        build: from a base model, example images and a generator.
        passes: forward and inner backward passes per query, and backward passes per gradient, counted by hand.
        random: whether two calls may differ.
        exact: whether the gradient is the derivative; the hedge passes a projection straight through.
    """

    name: str
    build: Build
    passes: tuple[int, int, int]
    random: bool = False
    exact: bool = True


def masked(kind: type[InterpretabilityGuidedDefense], *, k: int | None = None, at: str = "penultimate", **settings):
    """Build a defense that keeps each class's `k` neurons of random rank, half of them by default."""

    def build(model: nn.Module, images: Tensor, generator: Generator) -> Defense:
        classes, layer = model(images[:1]).shape[1], find_layer(model, at, images[:1])
        ranks = torch.rand(classes, layer.width, generator=seeded(2))
        masks = class_masks(ranks, layer.width // 2 if k is None else min(k, layer.width))
        return kind(model, masks, layer=layer, generator=generator, **settings)

    return build


def simple(kind: Callable[..., Defense], **settings) -> Build:
    """Build a defense that needs no generator."""
    return lambda model, _images, _generator: kind(model, **settings)


def drawing(kind: Callable[..., Defense], **settings) -> Build:
    """Build a defense that takes a generator."""
    return lambda model, _images, generator: kind(model, generator=generator, **settings)


def sodef(model: nn.Module, images: Tensor, _generator: Generator) -> Defense:
    """Build SODEF with an ODE that is not trained, and a classifier behind it that agrees with the base model."""
    logits, layer = 2 * model(images), find_layer(model, "penultimate", images[:1])
    state = initial_state(layer.width, logits.shape[1], SodefTraining(dimensions=8, time=0.2), seed=6)
    at_the_end = {**state, "classifier.weight": torch.eye(8), "classifier.bias": torch.zeros(8)}
    ends = SodefDefense(model, SodefHead(at_the_end), layer=layer)(images).float()
    ones = torch.ones(len(images), 1, device=ends.device)
    # Small singular values would amplify the rounding of what comes before.
    solution = torch.linalg.pinv(torch.cat([ends, ones], dim=1), rtol=0.01) @ logits.float()
    solution = solution.cpu()
    weights = {"classifier.weight": solution[:-1].T.contiguous(), "classifier.bias": solution[-1]}
    return SodefDefense(model, SodefHead({**state, **weights}), layer=layer)


IGD, CONFIDENCE = InterpretabilityGuidedDefense, ConfidenceMaskingDefense
ALL = 1 << 20

CASES = [
    Case("masking", masked(IGD, sigma=0, tau=0.5), (1, 0, 1)),
    Case("masking-noise", masked(IGD, sigma=0.1, tau=0.5, draws=3), (4, 0, 4), random=True),
    Case("two-pass", masked(IGD, k=ALL, sigma=0), (1, 0, 1)),
    # Noise does not show: soft labels sum to 1, and so do the masks that they mix.
    Case("two-pass-noise", masked(IGD, k=ALL, sigma=0.1, tau=0.5, draws=2), (3, 0, 3), random=True),
    Case("smoothing-only", drawing(SmoothingOnly, sigma=0.1, draws=3), (3, 0, 3), random=True),
    Case("smoothing-only-still", drawing(SmoothingOnly, sigma=0, draws=3), (1, 0, 1)),
    Case("confidence", masked(CONFIDENCE, sigma=0, tau=0.5, threshold=0.3), (1, 0, 1)),
    Case("confidence-noise", masked(CONFIDENCE, sigma=0.1, tau=0.5, threshold=0.3, draws=2), (3, 0, 3), random=True),
    Case("hedge", drawing(HedgeDefense, epsilon=0.05, steps=4, step_size=0.019), (5, 4, 1), exact=False),
    Case(
        "hedge-random",
        drawing(HedgeDefense, epsilon=0.05, steps=4, step_size=0.019, random_start=True),
        (5, 4, 1),
        random=True,
        exact=False,
    ),
    Case("anti-adversary", simple(AntiAdversaryDefense, steps=3, step_size=0.05), (4, 3, 1)),
    Case("sodef", sodef, (1, 0, 1)),
]
LAYERS = [
    Case("masking-at-a-convolution", masked(IGD, at="4", sigma=0, tau=0.5), (2, 0, 2)),
    Case("confidence-at-a-convolution", masked(CONFIDENCE, at="4", sigma=0, tau=0.5, threshold=0.3), (2, 0, 2)),
]

# Settings with which a defense is the base model.
NEUTRAL = [
    Case("k-is-all", masked(IGD, k=ALL, sigma=0), (1, 0, 1)),
    Case("k-is-all-noise", masked(IGD, k=ALL, sigma=0.1, draws=2), (3, 0, 3)),
    Case("k-is-all-confidence", masked(CONFIDENCE, k=ALL, sigma=0), (1, 0, 1)),
    Case("threshold-1", masked(CONFIDENCE, sigma=0, threshold=1), (1, 0, 1)),
    Case("threshold-1-noise", masked(CONFIDENCE, sigma=0.1, threshold=1), (2, 0, 2)),
    Case("sigma-0", simple(SmoothingOnly, sigma=0), (1, 0, 1)),
    Case("hedge-no-steps", simple(HedgeDefense, epsilon=0.05, steps=0), (1, 0, 1)),
    Case("hedge-step-size-0", simple(HedgeDefense, epsilon=0.05, step_size=0), (21, 20, 1)),
    Case("anti-adversary-no-steps", simple(AntiAdversaryDefense, steps=0), (1, 0, 1)),
    Case("anti-adversary-step-size-0", simple(AntiAdversaryDefense, step_size=0), (3, 2, 1)),
]


def over(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


every_case = over(CASES + LAYERS)
every_device = pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)

IMAGES = tiny_images()


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def defend(case: Case, model: nn.Module | None = None, images: Tensor = IMAGES, seed: int = 0) -> Defense:
    return case.build(tiny_model() if model is None else model, images, seeded(seed))


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def gradient(defense: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the logits' sum, weighted by `weights` [C]."""
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad((defense(leaf) * weights).sum(), leaf)[0]


WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])


@every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_case
def test_logits_and_gradient_have_the_images_device_and_dtype(case: Case, dtype: torch.dtype, device: str) -> None:
    model, images = tiny_model().to(device, dtype), IMAGES.to(device, dtype)
    defense = defend(case, model, images)
    # TensorFloat-32, the default on GPUs, has ten bits.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits, back = defense(images), gradient(defense, images, WEIGHTS.to(device, dtype))
    assert logits.shape == (6, 5)
    assert back.shape == images.shape
    for tensor in (logits, back):
        assert (tensor.dtype, tensor.device) == (dtype, images.device)
        assert torch.isfinite(tensor).all()
    # What the processor computes in double precision is the reference.
    expected = defend(case, tiny_model().double(), IMAGES.double())(IMAGES.double())
    # Masks amplify rounding, and a GPU sums in another order; TensorFloat-32 would be wrong by 4e-3 and more.
    tolerance = 2e-3 if (device, dtype) == ("cuda", torch.float32) else 1e-4
    torch.testing.assert_close(logits.cpu().double(), expected, rtol=tolerance, atol=tolerance)


@over([case for case in CASES + LAYERS if case.exact])
def test_the_gradient_is_the_derivative(case: Case) -> None:
    model = frozen(tiny_model().double())
    images = IMAGES.double()
    weights, direction = WEIGHTS.double(), torch.randn(images.shape, generator=seeded(8), dtype=torch.float64)

    def value(step: float) -> Tensor:
        return (defend(case, model, images)(images + step * direction) * weights).sum(dim=1)

    expected = (value(1e-6) - value(-1e-6)) / 2e-6
    back = gradient(defend(case, model, images), images, weights)
    torch.testing.assert_close((back * direction).sum(dim=(1, 2, 3)), expected, rtol=1e-5, atol=1e-7)
    assert (back.flatten(1).abs().amax(dim=1) > 1e-3).all()


@every_case
def test_a_seed_decides_everything(case: Case) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    defense = defend(case)
    first, second = defense(IMAGES), defense(IMAGES)
    again = defend(case)
    assert torch.equal(again(IMAGES), first)
    assert torch.equal(again(IMAGES), second)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


@every_case
def test_two_calls_or_two_seeds_differ_only_where_the_defense_says_it_is_random(case: Case) -> None:
    defense = defend(case)
    assert defense.is_random == case.random
    first, second, other = defense(IMAGES), defense(IMAGES), defend(case, seed=1)(IMAGES)
    if not case.random:
        assert torch.equal(first, second)
        assert torch.equal(first, other)
    elif case.name != "two-pass-noise":
        assert not torch.allclose(first, second, atol=1e-4)
        assert not torch.allclose(first, other, atol=1e-4)


@over([case for case in CASES + LAYERS if not case.random])
def test_an_image_s_logits_do_not_depend_on_the_rest_of_the_batch(case: Case) -> None:
    defense = defend(case)
    parts = torch.cat([defense(IMAGES[:1]), defense(IMAGES[1:3]), defense(IMAGES[3:])])
    torch.testing.assert_close(parts, defense(IMAGES), rtol=1e-5, atol=1e-5)
    backwards = torch.cat([gradient(defense, part, WEIGHTS) for part in IMAGES.split(2)])
    torch.testing.assert_close(backwards, gradient(defense, IMAGES, WEIGHTS), rtol=1e-4, atol=1e-5)


@every_case
def test_no_images_give_no_logits(case: Case) -> None:
    assert defend(case)(IMAGES[:0]).shape == (0, 5)


@every_case
def test_without_gradients_the_logits_are_the_same(case: Case) -> None:
    with torch.no_grad():
        logits = defend(case)(IMAGES)
    assert not logits.requires_grad
    assert torch.equal(logits, defend(case)(IMAGES))
    assert torch.equal(logits, defend(case)(IMAGES.clone().requires_grad_()))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "kind", [lambda model, steps: HedgeDefense(model, epsilon=0.1, steps=steps), AntiAdversaryDefense]
)
def test_inner_steps_leave_nothing_in_the_graph(kind) -> None:
    def nodes(steps: int) -> int:
        seen, queue = set(), [kind(tiny_model(), steps=steps)(IMAGES.clone().requires_grad_()).grad_fn]
        while queue:
            node = queue.pop()
            if node is not None and node not in seen:
                seen.add(node)
                queue += [parent for parent, _ in node.next_functions]
        return len(seen)

    assert nodes(9) == nodes(1) > 10


@every_case
def test_a_frozen_base_model_has_the_same_gradient(case: Case) -> None:
    expected = gradient(defend(case), IMAGES, WEIGHTS)
    assert torch.equal(gradient(defend(case, frozen(tiny_model())), IMAGES, WEIGHTS), expected)
    # With weights and images both frozen there is nothing to differentiate, whatever happens inside.
    assert not defend(case, frozen(tiny_model()))(IMAGES).requires_grad


@every_case
def test_base_model_and_images_stay_as_they_were(case: Case) -> None:
    model, images = tiny_model(), IMAGES.clone()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = [sorted(vars(module)) for module in model.modules()]
    defense = defend(case, model)
    defense(images)
    gradient(defense, images, WEIGHTS)
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert hooks_of(model) == 0
    assert [sorted(vars(module)) for module in model.modules()] == own


@every_case
def test_a_defense_stays_in_eval_mode(case: Case) -> None:
    model = tiny_model()
    defense = defend(case, model)
    expected = defend(case)(IMAGES)
    assert defense.train() is defense
    assert not any(module.training for module in defense.modules())
    assert torch.equal(defense(IMAGES), expected)
    assert model[1].num_batches_tracked == tiny_model()[1].num_batches_tracked


def counted_passes(call: Callable[[], object], first: nn.Module) -> tuple[int, int]:
    """How many images entered the module `first` of a base model, and came back as gradients, during `call`."""
    counts = [0, 0]

    def forward(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        counts[0] += len(output)
        if output.requires_grad:
            output.register_hook(backward)

    def backward(result: Tensor) -> None:
        counts[1] += len(result)

    handle = first.register_forward_hook(forward)
    call()
    handle.remove()
    return counts[0], counts[1]


@over(CASES + LAYERS + NEUTRAL)
def test_passes_are_as_many_as_stated(case: Case) -> None:
    model = frozen(tiny_model())
    defense = defend(case, model)
    forwards, inner, backwards = case.passes
    assert (defense.forward_passes, defense.inner_backward_passes, defense.backward_passes) == case.passes
    n = len(IMAGES)
    with torch.no_grad():
        assert counted_passes(lambda: defense(IMAGES), model[0]) == (forwards * n, inner * n)
    both = counted_passes(lambda: gradient(defense, IMAGES, WEIGHTS), model[0])
    assert both == (forwards * n, (inner + backwards) * n)


@every_case
def test_an_attack_s_counter_sees_them(case: Case) -> None:
    forwards, inner, backwards = case.passes
    target = CountedTarget(defend(case))
    target(IMAGES)
    assert (target.queries, target.forwards, target.backwards) == (6, 6 * forwards, 6 * inner)
    gradient(target, IMAGES[:2], WEIGHTS)
    assert (target.queries, target.forwards) == (8, 8 * forwards)
    assert target.backwards == 8 * inner + 2 * backwards


@over(NEUTRAL)
def test_neutral_settings_are_the_base_model(case: Case) -> None:
    # In float64, as a mask of soft labels is 1 only up to rounding, which weights up to 20, of both signs, sum up.
    model, images, weights = tiny_model().double(), IMAGES.double(), WEIGHTS.double()
    defense = defend(case, model, images)
    torch.testing.assert_close(defense(images), model(images), rtol=1e-5, atol=1e-5)
    expected = gradient(model, images, weights)
    torch.testing.assert_close(gradient(defense, images, weights), expected, rtol=1e-3, atol=1e-4)


@over([case for case in CASES if "two-pass" not in case.name and "still" not in case.name])
def test_other_settings_are_not(case: Case) -> None:
    model = tiny_model()
    assert not torch.allclose(defend(case, model)(IMAGES), model(IMAGES), atol=1e-2)


@over(CASES)
def test_an_attack_can_aim_at_it(case: Case) -> None:
    data = load_images("digits", n=6)
    defense = defend(case, load_model("demo"), data.images)
    threat = ThreatModel(Norm.LINF, 0.3)
    result = APGD("ce", steps=3)(defense, data.images, data.labels, threat=threat, generator=seeded(1))
    assert result.distance.max() <= 0.3 + 1e-6
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    assert result.broken.any()

    def loss(points: Tensor) -> float:
        logits = defend(case, load_model("demo"), data.images)(points)
        return float(functional.cross_entropy(logits, data.labels))

    assert loss(result.adversarial) > loss(data.images)


MASKS = torch.ones(5, 8)
INVALID = [
    (IGD, {"masks": MASKS, "sigma": float("inf"), "generator": Generator()}, "sigma must be at least 0 and finite"),
    (IGD, {"masks": MASKS, "sigma": 0, "tau": -0.1}, "tau must be positive"),
    (IGD, {"masks": torch.ones(8), "sigma": 0}, r"masks must be \[classes, neurons\]"),
    (CONFIDENCE, {"masks": MASKS, "sigma": 0, "threshold": -0.1}, r"threshold must lie in \[0, 1\], not -0.1"),
    (CONFIDENCE, {"masks": MASKS, "sigma": 0, "threshold": 1.1}, r"threshold must lie in \[0, 1\], not 1.1"),
    (CONFIDENCE, {"masks": MASKS, "sigma": 0, "threshold": float("nan")}, r"threshold must lie in \[0, 1\]"),
    (CONFIDENCE, {"masks": MASKS, "sigma": 0.1}, "sigma > 0 needs generator"),
    (SmoothingOnly, {"sigma": -0.1}, "sigma must be at least 0"),
    (SmoothingOnly, {"sigma": float("nan")}, "sigma must be at least 0"),
    (SmoothingOnly, {"sigma": 0.1, "draws": 0, "generator": Generator()}, "draws must be at least 1, not 0"),
    (SmoothingOnly, {"sigma": 0.1}, "sigma > 0 needs generator"),
    (HedgeDefense, {"epsilon": 0}, r"epsilon must lie in \(0, 1\], in \[0, 1\] pixel units, not 0"),
    (HedgeDefense, {"epsilon": 8}, r"epsilon must lie in \(0, 1\], in \[0, 1\] pixel units, not 8"),
    (HedgeDefense, {"epsilon": float("nan")}, "epsilon must lie in"),
    (HedgeDefense, {"epsilon": 0.1, "steps": -1}, "steps must be at least 0, not -1"),
    (HedgeDefense, {"epsilon": 0.1, "step_size": -0.1}, "step_size must be at least 0 and finite"),
    (HedgeDefense, {"epsilon": 0.1, "random_start": True}, "random_start needs generator"),
    (AntiAdversaryDefense, {"steps": -1}, "steps must be at least 0, not -1"),
    (AntiAdversaryDefense, {"step_size": -1}, "step_size must be at least 0 and finite"),
    (AntiAdversaryDefense, {"step_size": float("nan")}, "step_size must be at least 0 and finite"),
    (AntiAdversaryDefense, {"step_size": float("inf")}, "step_size must be at least 0 and finite"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), INVALID)
def test_settings_out_of_range_are_refused_in_one_line(kind, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        kind(tiny_model(), **settings)
    assert "\n" not in str(caught.value)
