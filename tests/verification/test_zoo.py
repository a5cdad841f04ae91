"""The check of RobustBench's models: each kind of failure is found, and ten families of architectures pass."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import igd_ray
from igd_ray.models.zoo import find_entry
from igd_ray.ranking.leave_one_out import LeaveOneOutSums, leave_one_out_sums
from igd_ray.verification.zoo import ZooFinding, check_entries, check_entry, family_of

ENTRY = find_entry("cifar10/Linf/Standard")
LISTED = {
    f"{row['dataset']}/{row['threat']}/{row['name']}": row
    for row in json.loads((Path(igd_ray.__file__).parent / "models" / "zoo.json").read_text())["models"]
}


class Small(nn.Module):
    """A convolution, a batch norm and a head, with what a test wants done between them."""

    def __init__(self, *, before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.before = before
        self.convolution, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.norm(self.convolution(self.before(images)))).mean(dim=(2, 3))
        return self.head(features)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], nn.Module]], ZooFinding]:
    """Check a model in place of an entry's."""

    def check(factory: Callable[[], nn.Module]) -> ZooFinding:
        monkeypatch.setattr("igd_ray.models.zoo.constructed", lambda entry: factory())
        return check_entry(ENTRY)

    return check


Build = Callable[[Callable[[], nn.Module]], ZooFinding]


def test_a_model_that_works(build: Build) -> None:
    parameters = (3 * 9 + 1) * 6 + 2 * 6 + (6 + 1) * 10
    assert build(Small) == ZooFinding("cifar10", "Linf", "Standard", "Small", True, 6, parameters, "")


def test_zeros_that_hide_the_images_are_replaced(build: Build) -> None:
    def zeroed() -> nn.Module:
        model = Small()
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.norm.weight)
        model.norm.running_var.fill_(1e12)
        return model

    assert build(zeroed).supported


def test_the_same_seed_finds_the_same_and_the_global_generator_stays(build: Build) -> None:
    drawn: list[Tensor] = []

    def recording() -> nn.Module:
        model = Small()
        drawn.append(model.head.weight.clone())
        return model

    before = torch.get_rng_state()
    assert build(recording) == build(recording)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.get_rng_state(), before)


class Detached(torch.autograd.Function):
    """The identity, without a gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


class Explosive(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient / 0


class TwoHeads(Small):
    """An ensemble: no classifier gives its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolution(images).mean(dim=(2, 3))
        return (self.head(features) + self.other(features)) / 2


class MixesItsBatch(Small):
    """Gives an image logits that depend on the other images of its batch."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return (logits + logits.flip(0)) / 2


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (lambda: Small(before=Detached.apply), "the gradient through the defense is zero at sigma 0"),
        (lambda: Small(before=Explosive.apply), "the gradient through the defense is not finite at sigma 0"),
        (lambda: Small(before=lambda x: x / 0), "the logits are not finite"),
        (MixesItsBatch, "LO-IR of neuron"),
        (TwoHeads, "the model has no penultimate layer"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3)), "RuntimeError: "),
    ],
)
def test_a_model_that_does_not_work_is_told_with_its_reason(build: Build, factory, reason: str) -> None:
    finding = build(factory)
    assert not finding.supported
    assert reason in finding.reason
    assert "\n" not in finding.reason
    assert finding.parameters is not None


def test_a_ranking_that_is_not_the_ablation_s_is_found(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*arguments: object) -> LeaveOneOutSums:
        sums = leave_one_out_sums(*arguments)
        return LeaveOneOutSums(sums.totals.roll(1, dims=1), sums.counts)

    monkeypatch.setattr("igd_ray.verification.zoo.leave_one_out_sums", shifted)
    assert build(Small).reason.startswith("LO-IR of neuron")


def test_a_download_is_refused_and_the_network_is_there_again(build: Build) -> None:
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def downloading() -> nn.Module:
        socket.create_connection(("localhost", 9))
        return Small()

    finding = build(downloading)
    assert finding == ZooFinding("cifar10", "Linf", "Standard", None, False, None, None, finding.reason)
    assert finding.reason == "cannot be built here (IgdError: it wants to download something)"
    assert (socket.socket.connect, socket.getaddrinfo) == (connect, resolve)


def test_an_interrupt_is_no_finding(build: Build) -> None:
    def interrupted() -> nn.Module:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(interrupted)


def test_one_model_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []

    class Counted(Small):
        def __init__(self) -> None:
            super().__init__()
            alive.append(1)
            self.self_reference = [self]  # goes with the next collection only

        def __del__(self) -> None:
            alive.pop()

    def built(_entry: object) -> nn.Module:
        model = Counted()
        assert len(alive) == 1
        return model

    monkeypatch.setattr("igd_ray.models.zoo.constructed", built)
    findings = [finding for finding, _ in check_entries([ENTRY] * 3)]
    assert all(finding.supported for finding in findings)
    assert alive == []


def test_families_go_by_the_class_or_the_one_it_inherits_from() -> None:
    from robustbench.model_zoo.architectures.utils_architectures import normalize_model
    from robustbench.model_zoo.cifar10 import Hendrycks2020AugMixWRNNet

    assert family_of(Hendrycks2020AugMixWRNNet(depth=10, widen_factor=1)) == "WRN"
    assert family_of(normalize_model(Small(), (0.5,) * 3, (0.5,) * 3)) == "Small"


# The smallest of each family, and two whose table rows say something else: ImageNet's ResNet-50, and an ensemble.
FAMILIES = {
    "cifar10/Linf/Sehwag2021Proxy_R18": "ResNet",
    "cifar10/Linf/Wong2020Fast": "PreActResNet",
    "cifar10/Linf/Rebuffi2021Fixing_R18_ddpm": "DM-PreActResNet",
    "cifar10/Linf/Ding2020MMA": "WRN",
    "cifar10/Linf/Wang2023Better_WRN-28-10": "DM-WRN",
    "imagenet/Linf/Peng2023Robust": "RaWRN",
    "cifar10/Linf/Sehwag2021Proxy_ResNest152": "ResNeSt",
    "cifar10/Linf/Debenedetti2022Light_XCiT-S12": "XCiT",
    "imagenet/Linf/Singh2023Revisiting_ViT-S-ConvStem": "ViT",
    "imagenet/Linf/Singh2023Revisiting_ConvNeXt-T-ConvStem": "ConvNeXt",
    "imagenet/Linf/Liu2023Comprehensive_Swin-B": "Swin",
    "imagenet/Linf/Wong2020Fast": "ResNet",
    "cifar10/Linf/Chen2020Adversarial": "ensemble",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), FAMILIES.items(), ids=FAMILIES)
def test_a_family_is_what_the_shipped_table_says(name: str, family: str) -> None:
    finding = check_entry(find_entry(name))
    assert finding.family == family
    assert finding.supported == (family != "ensemble"), finding.reason
    assert vars(finding) == LISTED[name]
