"""What `igd check` asks of a user's defense, every defense of the package keeps."""

import pytest
import torch
from torch import nn

from igd_ray.data import load_images
from igd_ray.defenses.contract import look_at
from igd_ray.defenses.sodef import SodefTraining
from igd_ray.defenses.sodef_training import initial_state
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.models.demo import demo_model
from tests.defenses.test_specs import SPECS

IMAGES = load_images("digits", n=8)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.label}-{spec.defense_id[:4]}")
def test_the_package_s_own_defenses_keep_it(spec: DefenseSpec) -> None:
    scores = torch.rand(10, 64, generator=torch.Generator().manual_seed(0)) if spec.ranking_id else None
    trained = initial_state(64, 10, SodefTraining(), 0) if spec.kind == "sodef" else None

    def build(model: nn.Module, generator: torch.Generator) -> nn.Module:
        return spec.build(model, generator, scores=scores, trained=trained)

    found = look_at(build, demo_model(), IMAGES.images, IMAGES.labels, num_classes=10, may_be_random=spec.is_random)
    assert {each.name: each.found for each in found.properties if each.result == "error"} == {}
    assert found.passes == spec.passes
    assert (found.first_passes is not None) == spec.has_two_passes
    assert found.has_gradient
