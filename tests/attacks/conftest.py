"""What the attack tests share: the demo model, some digits, and defenses built on it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from igd_ray.data import load_images
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.models import load_model
from igd_ray.models.anatomy.layers import find_layer
from igd_ray.models.demo import DEMO_EPSILON
from igd_ray.threat import Norm, ThreatModel


@pytest.fixture(scope="session")
def model() -> nn.Module:
    return load_model("demo")


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """Twelve digits that the demo model gets right; the last is near the boundary, so that Square breaks it soon."""
    data = load_images("digits").select([0, 1, 2, 3, 4, 5, 7, 8, 10, 14, 21, 22])
    return data.images, data.labels


@pytest.fixture(scope="session")
def images(digits: tuple[Tensor, Tensor]) -> Tensor:
    """The digits without their labels."""
    return digits[0]


@pytest.fixture(scope="session")
def threat() -> ThreatModel:
    return ThreatModel(Norm.LINF, DEMO_EPSILON)


@pytest.fixture
def defended(model: nn.Module, digits: tuple[Tensor, Tensor]) -> Callable[..., InterpretabilityGuidedDefense]:
    """Build a defense that keeps each class's 24 neurons of largest weight; its noise starts from seed 5."""
    # Found here: a defense that finds its layer at its first call runs the base model once more for it.
    layer = find_layer(model, "penultimate", digits[0][:1])

    def build(**settings: object) -> InterpretabilityGuidedDefense:
        masks = class_masks(model.linear.weight.abs(), 24)
        return InterpretabilityGuidedDefense(
            model, masks, layer=layer, generator=torch.Generator().manual_seed(5), **settings
        )

    return build
